"""Where things are, and every hand-written Python module of the product, parsed once."""

import ast
import contextlib
import functools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services"
OPERATOR = ROOT / "operator"
PROTOS = ROOT / "protos"
GENERATED = "peregrine.api"

_MADE = {"__pycache__", "build", "dist"}
_SHOWN = {".ci", ".github", ".gitignore"}


@dataclass(frozen=True)
class Module:
    """One Python file: its import name and its tree."""

    name: str
    tree: ast.Module
    where: str
    is_package: bool = False

    @property
    def unit(self) -> str:
        return unit_of(self.name)


def unit_of(name: str) -> str:
    """What the layers are drawn between: the service, kit, client …; `peregrine` is the entry."""
    parts = name.split(".")
    if parts[0] != "peregrine" or len(parts) == 1 or parts[1] == "__main__":
        return parts[0]
    return parts[1]


def module(name: str, source: str) -> Module:
    """A module made from text: how a rule is shown something bad."""
    return Module(name=name, tree=ast.parse(source), where=f"{name}.py")


def modules_under(root: Path) -> Iterator[Module]:
    for path in sorted(root.rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        if is_package:
            parts.pop()
        name = ".".join(parts)
        if f"{name}.".startswith(f"{GENERATED}."):
            continue
        yield Module(
            name=name,
            tree=ast.parse(path.read_text(encoding="utf-8"), filename=str(path)),
            where=str(path.relative_to(ROOT)),
            is_package=is_package,
        )


@functools.cache
def product() -> tuple[Module, ...]:
    """Every hand-written module below the two source roots."""
    return (*modules_under(SERVICES), *modules_under(OPERATOR))


@functools.cache
def tracked_files() -> tuple[Path, ...]:
    """The files of the repository: as git lists them, else all that nothing here has made."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30
        ).stdout.decode()
        if listed:
            return tuple(path for name in listed.split("\0") if (path := ROOT / name).is_file())
    return tuple(
        path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file() and not any(map(_made, path.relative_to(ROOT).parts))
    )


def _made(part: str) -> bool:
    hidden = part.startswith(".") and part not in _SHOWN
    return hidden or part in _MADE or part.endswith(".egg-info")


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; the empty string for any other expression."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            before = dotted(value)
            return f"{before}.{attribute}" if before else ""
    return ""
