"""House rules that no linter knows: how tests wait, what a broad catch must do, names."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator

from tests.contract.repository import Module, dotted

Rule = Callable[[Iterable[Module]], Iterator[str]]


def no_waiting_for_the_clock(modules: Iterable[Module]) -> Iterator[str]:
    """`sleep(0)` gives way, one for ever hangs on purpose, one in a `while condition` is a step of
    a wait for that condition; every other one is a guess.

    `tests/support` may (what delays on purpose is there, and `eventually`), and so may
    `tests/fault`: a fault that comes at a random moment, or lasts ten seconds, is the experiment;
    so is a load of some minutes on a cluster, and it is what `tests/cluster` sends.
    """
    for one in modules:
        if one.name.startswith(("support.", "fault.", "cluster.")):
            continue
        steps = {
            id(inner)
            for node in ast.walk(one.tree)
            if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant)
            for inner in ast.walk(node)
        }
        for node in ast.walk(one.tree):
            if id(node) in steps:
                continue
            if isinstance(node, ast.Call) and dotted(node.func) in {"time.sleep", "asyncio.sleep"}:
                (argument,) = node.args[:1] or [ast.Constant(value=None)]
                seconds = argument.value if isinstance(argument, ast.Constant) else None
                if not (seconds == 0 or (isinstance(seconds, int | float) and seconds >= 60)):
                    yield f"{one.where}:{node.lineno}: waits for the clock; use `eventually`"


def no_mocks(modules: Iterable[Module]) -> Iterator[str]:
    for one in modules:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                if any(name.startswith("unittest.mock") or name == "mock" for name in names):
                    yield f"{one.where}:{node.lineno}: imports unittest.mock"


def broad_catches_tell(modules: Iterable[Module]) -> Iterator[str]:
    """What is caught is raised, logged or handed on."""
    for one in modules:
        for node in ast.walk(one.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = {dotted(kind).rpartition(".")[2] for kind in _kinds(node.type)}
            if node.type is not None and not caught & {"Exception", "BaseException"}:
                continue
            if not any(_tells(inner, node.name) for inner in ast.walk(node)):
                yield f"{one.where}:{node.lineno}: swallows everything"


def nothing_suppresses_everything(modules: Iterable[Module]) -> Iterator[str]:
    for one in modules:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
                if any(
                    dotted(argument) in {"Exception", "BaseException"} for argument in node.args
                ):
                    yield f"{one.where}:{node.lineno}: suppresses everything"


def nothing_has_a_name_that_says_nothing(modules: Iterable[Module]) -> Iterator[str]:
    hollow = re.compile(r"(Manager|Helper|Base|Impl|Utils?)$")
    for one in modules:
        if set(one.name.split(".")) & {"utils", "util", "common", "helpers", "base", "manager"}:
            yield f"{one.where}: the module's name says nothing"
        for node in ast.walk(one.tree):
            if isinstance(node, ast.ClassDef) and hollow.search(node.name):
                yield f"{one.where}:{node.lineno}: {node.name} says nothing"


def every_module_says_what_it_is_for(modules: Iterable[Module]) -> Iterator[str]:
    for one in modules:
        empty = one.is_package and not one.tree.body
        if not empty and not ast.get_docstring(one.tree):
            yield f"{one.where}: no docstring"


OF_TESTS: tuple[Rule, ...] = (no_waiting_for_the_clock, no_mocks)
OF_THE_PRODUCT: tuple[Rule, ...] = (
    broad_catches_tell,
    nothing_suppresses_everything,
    nothing_has_a_name_that_says_nothing,
    every_module_says_what_it_is_for,
)


def _kinds(node: ast.expr | None) -> list[ast.expr]:
    if node is None:
        return []
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _tells(node: ast.AST, caught: str | None) -> bool:
    match node:
        case ast.Raise():
            return True
        case ast.Name(id=name):
            return name == caught
        case ast.Call(func=function):
            return dotted(function).rpartition(".")[2] in {"exception", "error", "warning"}
    return False
