"""The wheel holds what a service needs when nothing of the repository is beside it."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.repository import ROOT, tracked_files

# Made elsewhere so that a build leaves nothing in the checkout.
SOURCES = ("services", "operator", "pyproject.toml", "README.md", "LICENSE")
NEEDED = (".py", ".pyi", ".sql", ".lua", ".html", ".css", ".js", ".svg", "py.typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    for path in tracked_files():
        name = path.relative_to(ROOT)
        if name.parts[0] in SOURCES:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name)
    command = "pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir"
    subprocess.run(
        [sys.executable, "-m", *command.split(), str(directory), str(source)],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
        capture_output=True,
        timeout=110,
    )
    [built] = directory.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


def test_every_file_of_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(Path(*path.relative_to(ROOT).parts[1:]))
        for path in tracked_files()
        if path.relative_to(ROOT).parts[0] in {"services", "operator"}
        and path.name.endswith(NEEDED)
    }
    assert sorted(expected - set(wheel.namelist())) == []


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages <= {"peregrine", "peregrine_operator"}
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
