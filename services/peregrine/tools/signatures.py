"""What a function's signature says, as the JSON Schema of a tool's arguments.

    @tool(effect=Effect.READ)
    async def find_orders(customer: str, limit: Annotated[int, "at most"] = 10) -> list[Order]:
        \"\"\"Finds the orders of a customer.

        Args:
          customer: their number, for example C-1042.
        \"\"\"

The types of the parameters give the schema, the docstring gives the description and what each
parameter is; a parameter of the type `ToolContext` is no argument, it is given the context. Types
are those that JSON has, lists, dictionaries, `Literal`, `Enum`, dataclasses, `TypedDict`, dates,
and what has `model_json_schema` and `model_validate` (pydantic). The function gets what it asks
for: an enum's member, a dataclass's instance.
"""

import dataclasses
import datetime
import enum
import functools
import inspect
import re
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_PLAIN: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_TEXTS: Mapping[Any, tuple[str, Callable[[str], Any]]] = {
    datetime.datetime: ("date-time", datetime.datetime.fromisoformat),
    datetime.date: ("date", datetime.date.fromisoformat),
    uuid.UUID: ("uuid", uuid.UUID),
}
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Example|Examples):\s*$")
_ENTRY = re.compile(r"^\s+\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Signature:
    """`bind` turns arguments that fit `schema` into keyword arguments of the function."""

    description: str
    schema: Mapping[str, Any]
    bind: Callable[[Mapping[str, Any], object], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Kind:
    schema: dict[str, Any]
    # None: a value of JSON is what the function wants.
    convert: Callable[[Any], Any] | None = None

    def __call__(self, value: Any) -> Any:
        return value if self.convert is None else self.convert(value)


def read(function: Callable[..., Any], *, context: type) -> Signature:
    """Reads the signature and the docstring of a function.

    Args:
      context: the type of the parameter that is given the context.

    Raises:
      ValueError: a parameter has a type, or is of a kind, that arguments in JSON cannot have.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    description, words = _documented(inspect.getdoc(function) or "")
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    required: list[str] = []
    kinds: dict[str, _Kind] = {}
    given: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"the parameter {name!r} cannot be given by name")
        annotation = hints.get(name, Any)
        if annotation is context:
            given.append(name)
            continue
        kind = _kind(annotation, name, definitions)
        schema = dict(kind.schema)
        if name in words:
            schema.setdefault("description", words[name])
        if parameter.default is parameter.empty:
            required.append(name)
        elif parameter.default is None or type(parameter.default) in _PLAIN:
            schema["default"] = parameter.default
        properties[name], kinds[name] = schema, kind

    def bind(arguments: Mapping[str, Any], context: object) -> dict[str, Any]:
        bound = {name: kinds[name](value) for name, value in arguments.items()}
        bound.update(dict.fromkeys(given, context))
        return bound

    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    if definitions:
        schema["$defs"] = definitions
    return Signature(description, schema, bind)


def adapted(
    function: Callable[..., Any], signature: Signature
) -> Callable[[Mapping[str, Any], Any], Any]:
    """The function as one of arguments and context; async when it is."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call(arguments: Mapping[str, Any], context: Any) -> Any:
            return await function(**signature.bind(arguments, context))

        return call

    @functools.wraps(function)
    def call_blocking(arguments: Mapping[str, Any], context: Any) -> Any:
        return function(**signature.bind(arguments, context))

    return call_blocking


def _kind(annotation: Any, name: str, definitions: dict[str, Any]) -> _Kind:
    origin, args = get_origin(annotation), get_args(annotation)
    inner = functools.partial(_kind, name=name, definitions=definitions)
    if origin is Annotated:
        return _annotated(inner(args[0]), args[1:])
    if annotation is Any or annotation is inspect.Parameter.empty:
        return _Kind({})
    if annotation in _PLAIN:
        return _Kind({"type": _PLAIN[annotation]})
    if annotation is None or annotation is types.NoneType:
        return _Kind({"type": "null"})
    if annotation in _TEXTS:
        text_format, convert = _TEXTS[annotation]
        return _Kind({"type": "string", "format": text_format}, convert)
    if origin is Literal:
        return _Kind({"enum": list(args)})
    if origin in (Union, types.UnionType):
        return _union([inner(each) for each in args])
    if (origin or annotation) in (list, Sequence, set, frozenset, tuple):
        return _items(origin or annotation, args, inner)
    if (origin or annotation) in (dict, Mapping):
        return _entries(args, inner)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _Kind({"enum": [member.value for member in annotation]}, annotation)
    if hasattr(annotation, "model_json_schema"):
        schema = annotation.model_json_schema()
        definitions.update(schema.pop("$defs", {}))
        return _Kind(schema, annotation.model_validate)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        needed = [
            each.name
            for each in dataclasses.fields(annotation)
            if each.default is each.default_factory is dataclasses.MISSING
        ]
        return _record(annotation, needed, inner, annotation)
    if typing.is_typeddict(annotation):
        return _record(annotation, sorted(annotation.__required_keys__), inner, dict)
    raise ValueError(f"the parameter {name!r} has a type that JSON cannot say: {annotation!r}")


def _annotated(kind: _Kind, notes: Sequence[Any]) -> _Kind:
    """A text is what it is; a mapping is further words of the schema (`{"minimum": 1}`)."""
    schema = dict(kind.schema)
    for note in notes:
        if isinstance(note, str):
            schema["description"] = note
        elif isinstance(note, Mapping):
            schema.update(note)
    return _Kind(schema, kind.convert)


def _union(kinds: Sequence[_Kind]) -> _Kind:
    schema: dict[str, Any] = {"anyOf": [kind.schema for kind in kinds]}
    plain = [kind.schema.get("type") for kind in kinds if kind.schema.keys() == {"type"}]
    if len(plain) == len(kinds):
        schema = {"type": plain}
    converting = [kind.convert for kind in kinds if kind.convert is not None]

    def convert(value: Any) -> Any:
        for each in converting:
            try:
                return each(value)
            except (ValueError, TypeError, KeyError):
                continue
        return value

    return _Kind(schema, convert if converting else None)


def _items(origin: Any, args: Sequence[Any], inner: Callable[[Any], _Kind]) -> _Kind:
    if origin is tuple and args[1:] not in ((Ellipsis,), ()):
        raise ValueError("a tuple of several types is no list of JSON; use tuple[T, ...]")
    item = inner(args[0]) if args else _Kind({})
    schema: dict[str, Any] = {"type": "array", "items": item.schema}
    if origin in (set, frozenset):
        schema["uniqueItems"] = True
    build = list if origin in (list, Sequence) else origin
    if build is list and item.convert is None:
        return _Kind(schema)
    return _Kind(schema, lambda values: build(map(item, values)))


def _entries(args: Sequence[Any], inner: Callable[[Any], _Kind]) -> _Kind:
    if not args:
        return _Kind({"type": "object"})
    if args[0] is not str:
        raise ValueError("the keys of an object of JSON are text")
    value = inner(args[1])
    schema = {"type": "object", "additionalProperties": value.schema}
    if value.convert is None:
        return _Kind(schema)
    return _Kind(schema, lambda entries: {key: value(each) for key, each in entries.items()})


def _record(
    annotation: Any,
    needed: Sequence[str],
    inner: Callable[[Any], _Kind],
    build: Callable[..., Any],
) -> _Kind:
    hints = typing.get_type_hints(annotation, include_extras=True)
    fields = {name: inner(_bare(hint)) for name, hint in hints.items()}
    schema = {
        "type": "object",
        "properties": {name: kind.schema for name, kind in fields.items()},
        "required": list(needed),
        "additionalProperties": False,
    }
    return _Kind(
        schema,
        lambda values: build(**{name: fields[name](value) for name, value in values.items()}),
    )


def _bare(hint: Any) -> Any:
    """Without the `Required` and `NotRequired` of a TypedDict."""
    return get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint


def _documented(text: str) -> tuple[str, dict[str, str]]:
    """The description in a docstring, and what it says of each parameter (Google style)."""
    description: list[str] = []
    words: dict[str, str] = {}
    section, entry, indent = "", "", 0
    for line in text.splitlines():
        if found := _SECTION.match(line):
            section, entry = found[1], ""
        elif not section:
            description.append(line)
        elif section in ("Args", "Arguments", "Parameters") and line.strip():
            depth = len(line) - len(line.lstrip())
            found = _ENTRY.match(line)
            if found and (not entry or depth <= indent):
                entry, indent = found[1], depth
                words[entry] = found[2]
            elif entry:
                words[entry] = f"{words[entry]} {line.strip()}".strip()
    return "\n".join(description).strip(), words
