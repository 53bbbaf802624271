"""No work at import: a module defines things and does nothing.

Everything that runs when a module is imported (statements outside functions, class bodies,
decorators, defaults) may call only what is listed here: constructors of plain values. A client, a
metric, a lock, a task or a file opened there would live once per process behind everybody's back.
"""

import ast
from collections.abc import Iterable, Iterator

from tests.contract.repository import Module, dotted

# Builders of plain, immutable or declarative values.
PLAIN = frozenset(
    {
        "frozenset", "set", "dict", "tuple", "list", "range", "bytes", "str", "int", "float", "len",
        "object", "sorted", "zip", "map", "min", "max", "sum", "enumerate", "bool", "type", "super",
        "property", "staticmethod", "classmethod", "re.compile", "re.escape", "json.dumps",
        "str.maketrans", "Path", "pathlib.Path", "struct.Struct", "uuid.UUID", "UUID", "Decimal",
        "Fraction", "timedelta", "datetime", "datetime.timedelta", "datetime.datetime",
        "string.Template", "types.MappingProxyType", "MappingProxyType", "math.log",
        "math.log2", "math.sqrt",
        "TypeVar", "typing.TypeVar", "ParamSpec", "NewType", "namedtuple", "NamedTuple",
        "contextvars.ContextVar", "ContextVar", "enum.auto", "auto",
        "dataclass", "dataclasses.dataclass", "dataclasses.field", "field",
        "functools.cache", "functools.lru_cache", "functools.partial", "partial",
        "functools.total_ordering", "typing.overload", "typing.final",
        "contextlib.asynccontextmanager", "contextlib.contextmanager",
        # Lazy: the logger is made at its first use.
        "structlog.get_logger",
        # Declarations of kit.settings.
        "setting", "settings.setting", "start_wait", "settings.start_wait",
    }
)  # fmt: skip
PLAIN_METHODS = frozenset({"encode", "format", "join", "split", "lower", "upper", "items", "keys",
                           "values", "union", "with_name"})  # fmt: skip

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def calls_at_import(module: Module) -> Iterator[tuple[str, int]]:
    """Every call that importing the module makes, as its dotted name and its line."""
    for statement in module.tree.body:
        if _is_main_guard(statement):
            continue
        for node in _runs(statement):
            if isinstance(node, ast.Call):
                yield dotted(node.func) or f"….{getattr(node.func, 'attr', '')}", node.lineno


def work_at_import(
    modules: Iterable[Module], *, allowed: Iterable[str] = (), declared: Iterable[str] = ()
) -> Iterator[str]:
    """Complaints. `allowed` are further callables; `declared` are names of product classes whose
    instances are plain values."""
    plain = PLAIN | frozenset(allowed)
    values = frozenset(declared)
    for module in modules:
        for name, line in calls_at_import(module):
            last = name.rpartition(".")[2]
            if name in plain or last in values or (last in PLAIN_METHODS and name != last):
                continue
            yield f"{module.where}:{line}: calls {name} at import"
        for node in module.tree.body:
            if isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.With | ast.Try):
                yield f"{module.where}:{node.lineno}: a {type(node).__name__} at import"


def plain_classes(modules: Iterable[Module]) -> frozenset[str]:
    """Frozen dataclasses, enums, named tuples and exceptions of the product: values to declare."""
    found: set[str] = set()
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and _is_plain(node):
                found.add(node.name)
    return frozenset(found)


def _is_plain(node: ast.ClassDef) -> bool:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and dotted(decorator.func).endswith("dataclass"):
            return any(
                keyword.arg == "frozen"
                and isinstance(keyword.value, ast.Constant)
                and keyword.value.value is True
                for keyword in decorator.keywords
            )
    bases = {dotted(base).rpartition(".")[2] for base in node.bases}
    return bool(bases & {"NamedTuple", "Enum", "IntEnum", "StrEnum"})


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "__name__ == '__main__'",
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def _runs(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that run when `node` does: not the bodies of functions, nor annotations."""
    yield node
    if isinstance(node, _SCOPES):
        inner: list[ast.AST] = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        if not isinstance(node, ast.Lambda):
            inner += node.decorator_list
    elif isinstance(node, ast.AnnAssign):
        inner = [node.value] if node.value else []
    else:
        inner = list(ast.iter_child_nodes(node))
    for child in inner:
        yield from _runs(child)
