"""`{name}` in a declared request: arguments put in their places, encoded for each place.

A place decides what an argument may do there. In the path it is one segment and stays one; in the
query it is one value; in a header it is one line of ASCII; in a JSON body it is a JSON value where
the placeholder is the whole string, and text inside a longer one. Scheme, host and port take no
arguments: where a request goes is for whoever declared it, not for a model.

An optional argument that was not given leaves out its query parameter, its header or its entry in
the body; in a path an argument cannot be optional.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]{0,63})\}")
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class Unusable(Exception):
    """An argument cannot stand where it would have to; the text is for the model."""


def placeholders(text: str) -> list[str]:
    """The arguments that a text asks for."""
    return _PLACEHOLDER.findall(_VARIABLE.sub("", text))


def of_body(body: Any) -> Iterator[str]:
    """The arguments that a JSON body asks for."""
    match body:
        case str():
            yield from placeholders(body)
        case Mapping():
            for value in body.values():
                yield from of_body(value)
        case list():
            for value in body:
                yield from of_body(value)


def split(url: str) -> tuple[str, str, str]:
    """A URL template as what may hold no arguments (up to the path), the path, and the query."""
    rest, _, query = url.partition("?")
    match = re.match(r"(?:\$\{[A-Z][A-Z0-9_]*\}|[A-Za-z][A-Za-z0-9+.-]*://[^/]*)", rest)
    start = match.end() if match else len(rest)
    return rest[:start], rest[start:], query


def variable(url: str) -> str:
    """The name of the setting that a URL template begins with, empty when it begins with none."""
    match = _VARIABLE.match(url)
    return match[1] if match else ""


def url(template: str, arguments: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """Raises `Unusable`."""
    start, path, query = split(template)
    start = _VARIABLE.sub(lambda match: variables[match[1]].rstrip("/"), start)
    path = "/".join(_segment(segment, arguments) for segment in path.split("/"))
    pairs = []
    for pair in query.split("&") if query else ():
        wanted = placeholders(pair)
        if wanted and all(name not in arguments for name in wanted):
            continue
        pairs.append(_PLACEHOLDER.sub(lambda match: _quoted(match[1], arguments), pair))
    return f"{start}{path}?{'&'.join(pairs)}" if pairs else start + path


def headers(template: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, str]:
    """Raises `Unusable`."""
    filled = {}
    for name, text in template.items():
        if any(wanted not in arguments for wanted in placeholders(text)):
            continue
        value = _PLACEHOLDER.sub(lambda match: _plain(arguments[match[1]]), text)
        if not _HEADER_VALUE.fullmatch(value):
            raise Unusable(f"What goes into the header {name} must be one line of ASCII.")
        filled[name] = value
    return filled


def body(template: Any, arguments: Mapping[str, Any]) -> Any:
    """A copy of a JSON value with its placeholders filled."""
    match template:
        case str():
            whole = _PLACEHOLDER.fullmatch(template)
            if whole:
                return arguments.get(whole[1])
            return _PLACEHOLDER.sub(lambda match: _plain(arguments.get(match[1], "")), template)
        case Mapping():
            return {
                name: body(value, arguments)
                for name, value in template.items()
                if not _left_out(value, arguments)
            }
        case list():
            return [body(value, arguments) for value in template if not _left_out(value, arguments)]
    return template


def _left_out(value: Any, arguments: Mapping[str, Any]) -> bool:
    whole = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    return whole is not None and whole[1] not in arguments


def _segment(template: str, arguments: Mapping[str, Any]) -> str:
    if not placeholders(template):
        return template
    segment = _PLACEHOLDER.sub(lambda match: _quoted(match[1], arguments), template)
    # Dots are not encoded by anybody, and would lead to another path.
    if segment in ("", ".", ".."):
        raise Unusable(f"The argument in {template} cannot be {segment!r}.")
    return segment


def _quoted(name: str, arguments: Mapping[str, Any]) -> str:
    return quote(_plain(arguments.get(name, "")), safe="", errors="replace")


def _plain(value: Any) -> str:
    match value:
        case str():
            return value
        case list() if all(isinstance(each, str | int | float) for each in value):
            return ",".join(map(_plain, value))
    return json.dumps(value, ensure_ascii=False)
