"""The supervisor of `skaffold dev`: a changed file ends the child and starts it anew."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peregrine.__main__ import SERVICES
from tests.manifests.programs import program
from tests.manifests.rendered import K8S, needs_kubectl, workloads
from tests.support.eventually import eventually

RELOAD = K8S / "components" / "reload" / "reload.py"
reload = program("reload/reload.py")

SERVICE = """
import signal, sys, threading
def end(*_):
    print("{word}: end", flush=True)
    {on_end}
signal.signal(signal.SIGTERM, end)
print("{word}: up", flush=True)
while True:
    signal.pause()
"""


class Running:
    """reload.py over a package `talker` below `source/services`, and what both write."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.module = source / "services" / "talker.py"
        self.module.parent.mkdir(parents=True)
        self.lines: list[str] = []

    def write(self, word: str, *, on_end: str = "sys.exit(0)") -> None:
        self.module.write_text(SERVICE.format(word=word, on_end=on_end))

    def start(self) -> None:
        code = (
            "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import reload;"
            "reload.installed_packages = dict;"
            ""
            "reload.HURRY_SECONDS = 0.3; reload.KILL_SECONDS = 0.3; reload.AGAIN_SECONDS = 1.0;"
            "sys.exit(reload.main(['-m', 'talker'], source=pathlib.Path(sys.argv[2])))"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(RELOAD.parent), str(self.source)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    async def said(self, line: str) -> None:
        await eventually(lambda: line in self.lines, what=f"{line}: {self.lines}")

    def close(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "source")
    running.write("one")
    running.start()
    yield running
    running.close()


async def test_a_change_starts_the_service_again_with_what_is_new(running: Running) -> None:
    await running.said("one: up")
    running.write("two")
    await running.said("two: up")
    assert running.lines[1:3] == ["reload: changed: services/talker.py; starting again", "one: end"]
    assert running.close() == 0
    assert running.lines[-1] == "two: end"


async def test_a_mistake_is_mended_by_the_next_change(running: Running) -> None:
    await running.said("one: up")
    running.module.write_text("this is no python")
    await eventually(lambda: any("SyntaxError" in line for line in running.lines))
    running.write("three")
    await running.said("three: up")


async def test_a_service_that_clings_to_its_calls_is_cut(running: Running) -> None:
    await running.said("one: up")
    running.write("clings", on_end="pass")
    await running.said("clings: up")
    running.write("four")
    await running.said("four: up")
    assert running.lines.count("clings: end") == 2


async def test_a_service_that_ended_by_itself_is_started_again(running: Running) -> None:
    running.write("five", on_end="pass")
    running.module.write_text("print('gone', flush=True)")
    await eventually(lambda: running.lines.count("gone") >= 2)
    assert "reload: ended with 0; starting again" in running.lines


def test_packages_are_copied_once_and_what_was_synced_stays(tmp_path: Path) -> None:
    installed = tmp_path / "site" / "peregrine"
    (installed / "edge").mkdir(parents=True)
    (installed / "edge" / "app.py").write_text("old")
    source = tmp_path / "source"
    reload.copy_packages(source, {"peregrine": installed})
    copied = source / "services" / "peregrine" / "edge" / "app.py"
    copied.write_text("synced")
    reload.copy_packages(source, {"peregrine": installed})
    assert copied.read_text() == "synced"


def test_a_service_starts_again_for_what_it_can_import_and_for_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "services" / "peregrine"
    for unit in ("edge", "tools", "local", "llm_gateway"):
        (root / unit).mkdir(parents=True)
        (root / unit / "main.py").touch()
    for path in (root / "kit", root / "client", tmp_path / "operator" / "peregrine_operator"):
        path.mkdir(parents=True)
        (path / "x.py").touch()

    def seen(*arguments: str) -> set[str]:
        found = reload.look(tmp_path, reload.foreign(tmp_path, ["-m", *arguments]))
        return {Path(path).parent.name for path in found}

    assert seen("peregrine", "edge") == {"kit", "client", "edge"}
    assert seen("peregrine", "llm-gateway") == {"kit", "client", "llm_gateway"}
    assert seen("peregrine", "stand-in") == {"kit", "client", "local"}
    assert seen("peregrine_operator") == {"kit", "client", "peregrine_operator"}


@needs_kubectl
def test_it_knows_where_every_service_of_a_pod_is_at_home() -> None:
    for each in workloads("live"):
        if each.kind == "Deployment" and each.is_ours and each.program[:1] == ["peregrine"]:
            service = each.program[1]
            home = reload.HOMES.get(service, service.replace("-", "_"))
            assert SERVICES[service].split(".")[1] == home


def test_both_packages_are_found_where_they_are_installed() -> None:
    found = reload.installed_packages()
    assert {name: path.name for name, path in found.items()} == {
        "peregrine": "peregrine",
        "peregrine_operator": "peregrine_operator",
    }


def test_compiled_files_are_no_change(tmp_path: Path) -> None:
    before = reload.look(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert reload.look(tmp_path) == before
    (tmp_path / "x.py").write_text("x")
    assert reload.look(tmp_path) != before


def test_it_needs_nothing_but_the_standard_library() -> None:
    for file in (RELOAD, K8S / "components" / "generated-secrets" / "generate.py"):
        imported = re.findall(r"^(?:import|from) (\w+)", file.read_text(), re.MULTILINE)
        assert set(imported) <= sys.stdlib_module_names
