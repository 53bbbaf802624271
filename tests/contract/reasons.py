"""The reasons that errors carry: which the code gives, which the documents explain."""

import ast
import re
from collections.abc import Iterable, Mapping

from tests.contract.repository import Module

REASON = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")


def given(modules: Iterable[Module]) -> Mapping[str, str]:
    """Reason -> one place that gives it: `reason="X"` in a call, or as a default."""
    found: dict[str, str] = {}
    for one in modules:
        for node in ast.walk(one.tree):
            for value in _reasons(node):
                if REASON.fullmatch(value) and "_" in value:
                    found.setdefault(value, f"{one.where}:{getattr(node, 'lineno', 0)}")
    return found


def explained(text: str) -> set[str]:
    """Every word of a page that has the form of a reason."""
    return {word for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", text) if "_" in word}


def _reasons(node: ast.AST) -> Iterable[str]:
    match node:
        case ast.Call(keywords=keywords):
            for keyword in keywords:
                if keyword.arg == "reason":
                    yield from _texts(keyword.value)
        case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
                if argument.arg == "reason" and default is not None:
                    yield from _texts(default)


def _texts(node: ast.expr) -> Iterable[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body)
            yield from _texts(orelse)
