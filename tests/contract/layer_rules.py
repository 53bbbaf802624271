"""Who may import whom, and which third-party library has its home where.

Imports are read from the syntax tree, wherever they stand (a function, `if TYPE_CHECKING`), so a
late import does not slip past. A module that is named as text (`import_module("peregrine.x")`, a
table of modules to start) counts as imported.
"""

import ast
import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from tests.contract.repository import Module, dotted, unit_of

SERVICES = frozenset(
    {"orchestrator", "llm_gateway", "tools", "cache", "memory", "edge", "simulator"}
)
# Units below these may use them: what the layers are, from the bottom to the top.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    "api": frozenset(),
    "kit": frozenset(),
    "client": frozenset({"api", "kit"}),
    **dict.fromkeys(SERVICES, frozenset({"api", "kit", "client"})),
    "simulator": frozenset({"kit"}),
    "cli": frozenset({"api", "kit", "client"}),
    "local": frozenset({"api", "kit", "client"}),
    "peregrine": frozenset({"kit", "cli", "local"}),
    "peregrine_operator": frozenset({"api", "kit", "client"}),
}
# They name services without knowing them: the one starts them, the other applies their migrations.
DISPATCHERS = frozenset({"peregrine.__main__", "peregrine.local.migrations"})
HOMED = frozenset({"anthropic", "asyncpg", "httpx", "httpx2", "kopf", "mcp", "redis"})

MODULE_NAME = re.compile(r"peregrine(_operator)?(\.[a-z_][a-z0-9_]*)+")

Rule = Callable[[Iterable[Module]], Iterator[str]]


def imports(module: Module) -> Iterator[tuple[str, int]]:
    """Every module that is imported, in full, with its line. `from a import b` gives `a.b`."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                start = _relative(module, level) if level else ""
                source = ".".join(filter(None, (start, source)))
                yield from ((f"{source}.{alias.name}", node.lineno) for alias in names)
            case ast.Constant(value=str(name)) if MODULE_NAME.fullmatch(name):
                yield name, node.lineno


def units_keep_their_layer(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        if module.unit not in MAY_IMPORT:
            yield f"{module.where}: {module.unit} is in no layer; give it one"
            continue
        allowed = MAY_IMPORT[module.unit] | {module.unit}
        for name, line in imports(module):
            unit = unit_of(name)
            if name == "peregrine" or unit not in MAY_IMPORT or unit in allowed:
                continue
            if module.name in DISPATCHERS and unit != "peregrine_operator":
                continue
            yield f"{module.where}:{line}: {module.unit} imports {unit} ({name})"


def libraries_have_one_home(modules: Iterable[Module]) -> Iterator[str]:
    users: dict[tuple[str, str], set[str]] = defaultdict(set)
    for module in modules:
        for name, _ in imports(module):
            library = name.partition(".")[0]
            if library in HOMED:
                users[module.unit, library].add(module.where)
    for (unit, library), places in sorted(users.items()):
        if len(places) > 1:
            yield f"{library} has several homes in {unit}: {', '.join(sorted(places))}"


def nothing_is_imported_by_star_or_path(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        for name, line in imports(module):
            if name.endswith(".*"):
                yield f"{module.where}:{line}: imports {name}"
            if name.partition(".")[0] == "tests":
                yield f"{module.where}:{line}: the product imports {name}"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and dotted(node) == "sys.path":
                yield f"{module.where}:{node.lineno}: touches sys.path"


def modules_do_not_import_in_circles(modules: Iterable[Module]) -> Iterator[str]:
    """Between files, at import time: a circle works until somebody imports its other end first."""
    known = {module.name: module for module in modules}
    edges = {
        module.name: {target for name in _at_import(module) if (target := _module(name, known))}
        - {module.name}
        for module in known.values()
    }
    for circle in _circles(edges):
        yield " imports ".join((*circle, circle[0]))


def _at_import(module: Module) -> Iterator[str]:
    kept: list[ast.stmt] = [
        node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    shallow = dataclasses.replace(module, tree=ast.Module(body=kept, type_ignores=[]))
    return (name for name, _ in imports(shallow))


def _module(name: str, known: Mapping[str, Module]) -> str | None:
    if name in known and not (known[name].is_package and name == "peregrine"):
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in known and parent != "peregrine" else None


def _circles(edges: Mapping[str, set[str]]) -> Iterator[tuple[str, ...]]:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in path:
            yield path[path.index(name) :]
            return
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            yield from walk(target, (*path, name))
        done.add(name)

    return itertools.chain.from_iterable(walk(name, ()) for name in sorted(edges))


def _relative(module: Module, level: int) -> str:
    parts = module.name.split(".")
    return ".".join(parts[: len(parts) - level + (1 if module.is_package else 0)])


RULES: tuple[Rule, ...] = (
    units_keep_their_layer,
    libraries_have_one_home,
    nothing_is_imported_by_star_or_path,
    modules_do_not_import_in_circles,
)
