"""What an MCP server offers, pinned: pure decisions on what is shown to a model, and how it runs.

A tool of a server is believed as it is seen first. Its description, schema and hints have a digest;
when the server says something else later, the tool is off until somebody approves the new digest,
because a description is read by a model and can tell it anything. A tool that went away keeps its
pin, so that it cannot come back as another one.

Effects come from the hints (MCP 2025-06-18, ToolAnnotations): read only is READ; everything else is
WRITE, as the standard has it. Of a server that gives no hints this is assumed and not known: its
tools are neither repeated, nor begun early, nor kept, but one of unknown outcome has failed, and
does not stop the run as a declared WRITE would.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from peregrine.api.tools.v1 import tools_pb2
from peregrine.tools import lending
from peregrine.tools.definition import Effect

MAX_ARGUMENTS = 64
MAX_APPROVED = 512

_NAME = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_NAME = 64
_MAX_DESCRIPTION = 4 * 1024
_BY_NAME = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One tool as its server says it. A hint is None where the server says nothing."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    read_only: bool | None = None
    idempotent: bool | None = None
    destructive: bool | None = None
    open_world: bool | None = None

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(_canonical(_plain(self))).hexdigest()}"

    @property
    def effect(self) -> Effect:
        return Effect.READ if self.read_only else Effect.WRITE

    @property
    def assumed(self) -> bool:
        """Whether the server said nothing of what the tool does to the world."""
        return self.read_only is None and self.destructive is None and self.idempotent is None


@dataclass(frozen=True, slots=True)
class Pinned:
    """`changed`: what the server says now, when that is not what was approved."""

    tool: Offered
    changed: Offered | None = None
    gone: bool = False


def merged(
    known: Mapping[str, Pinned], found: Iterable[Offered] | None, approved: frozenset[str]
) -> dict[str, Pinned]:
    """What is pinned after the server was asked; `found` is None when it was not."""
    if found is None:
        return {name: _approved(pin, approved) for name, pin in known.items()}
    pins = {name: replace(pin, gone=True) for name, pin in known.items()}
    for tool in found:
        pin = known.get(tool.name)
        if pin is None or pin.tool.digest == tool.digest:
            pins[tool.name] = Pinned(tool)
        else:
            pins[tool.name] = _approved(Pinned(pin.tool, changed=tool), approved)
    return pins


def disabled(pin: Pinned) -> str:
    """Why the tool cannot be called, empty when it can."""
    if pin.changed is None:
        return ""
    return (
        "its server says something else of it than what was approved; `peregrine tools approve` "
        f"shows what and approves it, as does {pin.changed.digest} in mcp.approvedDigests"
    )


def called(server: str, tool: str) -> str:
    """The name under which a tool of a server is offered."""
    return f"{server}_{_NAME.sub('_', tool)}"[:_MAX_NAME]


def described(tool: Offered) -> str:
    """For the model; never empty, never too long."""
    words = tool.description or f"The tool {tool.name} of an MCP server."
    return words.encode()[:_MAX_DESCRIPTION].decode(errors="ignore")


def schema(tool: Offered) -> bytes:
    """Of the arguments, as JSON; an object, whatever the server says.

    Without patterns: a regular expression of others can keep a worker busy for ever. The server
    checks what it wants checked.
    """
    return _canonical({**_without_patterns(tool.input_schema), "type": "object"})


def problems(
    tool: tools_pb2.Tool, *, commands_allowed: bool, secrets_allowed: bool
) -> Iterator[tuple[str, str]]:
    """What is wrong with the backend of a declaration, as (field, what); the URL not included."""
    mcp = tool.mcp
    if bool(mcp.url) == bool(mcp.command):
        yield "tool.mcp", "needs exactly one of url and command"
    if mcp.command and not commands_allowed:
        yield "tool.mcp.command", "is not open to this tenant"
    if len(mcp.command) > MAX_ARGUMENTS or any("\x00" in part for part in mcp.command):
        yield "tool.mcp.command", f"has more than {MAX_ARGUMENTS} parts, or a NUL in one"
    if mcp.command and not mcp.command[0]:
        yield "tool.mcp.command", "names no program"
    if (mcp.secret_headers or mcp.secret_environment) and not secrets_allowed:
        yield "tool.mcp", "names secrets, which are not open to this tenant"
    for field in ("secret_headers", "secret_environment"):
        if any(lending.is_ours(name) for name in getattr(mcp, field).values()):
            yield f"tool.mcp.{field}", "name a secret that is not for tools"
    if mcp.secret_headers and not mcp.url:
        yield "tool.mcp.secret_headers", "go with a url"
    if (mcp.secret_environment or mcp.environment) and not mcp.command:
        yield "tool.mcp.environment", "goes with a command"
    if len(mcp.approved_digests) > MAX_APPROVED or not all(
        _DIGEST.fullmatch(digest) for digest in mcp.approved_digests
    ):
        yield "tool.mcp.approved_digests", "are not digests (sha256: and 64 hexadecimal digits)"


def backend_digest(mcp: tools_pb2.McpBackend) -> bytes:
    """Which server it is: what was pinned of another one does not count for it."""
    parts = [mcp.url, *mcp.command]
    return hashlib.sha256(_canonical(parts)).digest()


def dump(pins: Mapping[str, Pinned]) -> bytes:
    return _canonical(
        [
            {
                "tool": _plain(pin.tool),
                "changed": None if pin.changed is None else _plain(pin.changed),
                "gone": pin.gone,
            }
            for pin in pins.values()
        ]
    )


def load(data: bytes) -> dict[str, Pinned]:
    pins = (
        Pinned(
            Offered(**each["tool"]),
            None if each["changed"] is None else Offered(**each["changed"]),
            each["gone"],
        )
        for each in orjson.loads(data or b"[]")
    )
    return {pin.tool.name: pin for pin in pins}


def _approved(pin: Pinned, approved: frozenset[str]) -> Pinned:
    if pin.changed is not None and pin.changed.digest in approved:
        return replace(pin, tool=pin.changed, changed=None)
    return pin


def _plain(tool: Offered) -> dict[str, Any]:
    return {name: getattr(tool, name) for name in Offered.__slots__}


def _without_patterns(schema: Any) -> Any:
    match schema:
        case dict():
            return {
                key: _named(value) if key in _BY_NAME else _without_patterns(value)
                for key, value in schema.items()
                if key not in ("pattern", "patternProperties")
            }
        case list():
            return [_without_patterns(each) for each in schema]
    return schema


def _named(schemas: Any) -> Any:
    """Schemas by the names of arguments, of which one may be "pattern"."""
    if not isinstance(schemas, dict):
        return schemas
    return {name: _without_patterns(schema) for name, schema in schemas.items()}


def _canonical(data: object) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
