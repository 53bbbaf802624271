"""Locks are whole, pinned and name no host; no tracked file names a registry or a machine."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.contract.repository import ROOT, tracked_files

LOCKS = ("requirements.lock", "requirements-dev.lock")
# Extras that `make run` installs; development installs all of them.
RUNTIME_EXTRAS = ("edge", "local", "operator", "simulator", "tools")

# Written so that this file does not name what it looks for.
REGISTRIES = re.compile(
    r"(?:pypi|pythonhosted|npmjs|deb\.debian|archive\.ubuntu|proxy\.golang|conda\.anaconda)"
    r"\.(?:org|com)\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:(?:home|Users)/[a-z][\w.-]*|ro{2}t)/")


def pins(text: str) -> dict[str, tuple[Version, int]]:
    """name -> (version, number of hashes) of a lock made by pip-compile."""
    found: dict[str, tuple[Version, int]] = {}
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", _without_comments(text)):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry.strip()):
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
            found[canonicalize_name(match[1])] = (Version(match[2]), len(hashes))
    return found


def lock_complaints(text: str) -> Iterator[str]:
    for name, (_, hashes) in pins(text).items():
        if not hashes:
            yield f"{name} has no hash"
    for line in _without_comments(text).splitlines():
        if line and not re.match(r"[A-Za-z0-9._-]+==\S+( ; .+)? \\$|    --hash=sha256:", line):
            yield f"not a pin: {line}"
        if "://" in line:
            yield f"names a host: {line}"


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_is_pinned_with_hashes_and_no_host(name: str) -> None:
    text = (ROOT / name).read_text()
    assert pins(text)
    assert list(lock_complaints(text)) == []
    assert "://" not in text


@pytest.mark.parametrize(
    "text",
    [
        "grpcio==1.0 \\\n    # via x\n",
        f"grpcio>=1.0 \\\n    --hash=sha256:{'0' * 64}\n",
        f"--index-url x\ngrpcio==1.0 \\\n    --hash=sha256:{'0' * 64}\n",
        f"grpcio @ https://host/x.whl \\\n    --hash=sha256:{'0' * 64}\n",
    ],
)
def test_a_bad_lock_is_found(text: str) -> None:
    assert list(lock_complaints(text))


def test_the_locks_hold_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: Mapping[str, list[str]] = project["optional-dependencies"]
    runtime = [
        *project["dependencies"],
        *(line for name in RUNTIME_EXTRAS for line in extras[name]),
    ]
    everything = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    for lock, lines in zip(LOCKS, (runtime, everything), strict=True):
        locked = pins((ROOT / lock).read_text())
        for requirement in map(Requirement, lines):
            version, _ = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{lock}: {requirement} is {version}"


def test_development_runs_on_the_versions_of_production() -> None:
    production, development = (pins((ROOT / name).read_text()) for name in LOCKS)
    assert {name: development.get(name, (None,))[0] for name in production} == {
        name: version for name, (version, _) in production.items()
    }


def names_a_machine(text: str) -> list[str]:
    found = [match[0] for match in REGISTRIES.finditer(text)]
    found += [match[0] for match in MACHINE_PATH.finditer(text)]
    return found


def test_no_tracked_file_names_a_registry_or_a_path_of_a_machine() -> None:
    found = {}
    here = {f"{path}/" for path in (ROOT, Path.home()) if len(path.parts) > 2}
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if bad := [*names_a_machine(text), *(place for place in here if place in text)]:
            found[str(path.relative_to(ROOT))] = bad
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "https://" + "files.python" + "hosted.org/x",
        "index-url = https://" + "py" + "pi.org/simple",
        "cd /" + "home/anna/peregrine",
        "/" + "Users/anna/x",
        "cat '/" + "root/.config'",
    ],
)
def test_a_named_machine_is_found(text: str) -> None:
    assert names_a_machine(text)


def test_an_address_in_a_url_is_no_path_of_a_machine() -> None:
    assert names_a_machine("GET https://example.com/home/page/ and $HOME/x and ./root/x") == []


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
