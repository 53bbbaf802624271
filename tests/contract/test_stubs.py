"""The stubs are what the protos make, byte for byte; the floors they check are declared."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.contract.protos import proto_files, run_protoc
from tests.contract.repository import PROTOS, ROOT, SERVICES, tracked_files

STUBS = SERVICES / "peregrine" / "api"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def drift(made: Path, committed: Path) -> list[str]:
    """What differs between two trees of stubs; files that Python leaves behind do not count."""
    left, right = _files(made), _files(committed)
    return [
        *(f"{name}: not committed" for name in sorted(left.keys() - right.keys())),
        *(f"{name}: made by no proto" for name in sorted(right.keys() - left.keys())),
        *(
            f"{name}: is not what the proto makes; run `make protos`"
            for name in sorted(left.keys() & right.keys())
            if left[name] != right[name]
        ),
    ]


def test_the_stubs_are_what_the_protos_make(tmp_path: Path) -> None:
    run_protoc(
        f"-I{PROTOS}",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
        f"--grpc_python_out={tmp_path}",
        *proto_files(PROTOS),
    )
    assert drift(tmp_path / "peregrine" / "api", STUBS) == []


def test_every_proto_has_its_three_stubs_and_they_are_committed() -> None:
    tracked = {str(path.relative_to(ROOT)) for path in tracked_files()}
    for path in proto_files(PROTOS):
        stem = Path(path).with_suffix("")
        for suffix in SUFFIXES:
            assert f"services/{stem}{suffix}" in tracked


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tree: (tree / "a_pb2.py").write_text("b"), "is not what the proto makes"),
        (lambda tree: (tree / "a_pb2.py").unlink(), "not committed"),
        (lambda tree: (tree / "z_pb2.py").write_text("z"), "made by no proto"),
        (lambda tree: (tree / "__init__.py").write_text(""), "made by no proto"),
    ],
)
def test_drift_is_found(change, complaint: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def] # a lambda
    for name in ("made", "committed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_pb2.py").write_text("a")
    assert drift(tmp_path / "made", tmp_path / "committed") == []
    change(tmp_path / "committed")
    assert [line for line in drift(tmp_path / "made", tmp_path / "committed") if complaint in line]


def test_the_declared_floors_are_those_that_the_stubs_check() -> None:
    assert _floor("grpcio") == _highest(r"^GRPC_GENERATED_VERSION = '([0-9.]+)'$")
    assert _floor("protobuf") == _highest(r"^# Protobuf Python Version: ([0-9.]+)$")


def _highest(pattern: str) -> Version:
    found = [
        Version(version)
        for path in sorted(STUBS.rglob("*_pb2*.py"))
        for version in re.findall(pattern, path.read_text(), re.MULTILINE)
    ]
    assert found
    return max(found)


def _floor(package: str) -> Version:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = (one for line in declared if (one := Requirement(line)).name == package)
    (specifier,) = requirement.specifier
    assert specifier.operator == ">="
    return Version(specifier.version)


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
