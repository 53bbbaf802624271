"""What a tool is, for those who write one.

A tool is a function with a declaration beside it:

    @tool(effect=Effect.PURE)
    async def shout(text: str) -> str:
        \"\"\"Gives the text back in capitals. Use it when somebody wants to be heard.\"\"\"
        return text.upper()

Its types say what a model may give it (`signatures`), its docstring when to use it. Who wants to
write the schema says `parameters` or `input_schema`, and takes arguments and context as they come.

An async function runs on the event loop and must not block it; a plain function may block, and runs
in a thread of its own. The arguments have passed the schema. What it returns is shown to the model:
text, an `Output` of text and data, or data alone. To fail, it raises `ToolFailure` with words for
the model; any other exception is our fault, and the model hears no details. A WRITE that cannot
tell whether it happened raises `OutcomeUnknown`.

Results of PURE and READ tools are kept for as long as `cost` and `change` say, and shown again to
whom `scope` says. A tool whose result depends on data that has versions (documents, say) names them
with `source_version`; one that is quicker than asking for its result says `cacheable=False`.

Nothing here knows gRPC; `contract` turns a definition into the message that lists it.
"""

import enum
import inspect
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack, overload

from peregrine.tools import signatures

DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 300.0
DEFAULT_CONCURRENCY = 10
MAX_RETRIES = 5

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_DESCRIPTION_BYTES = 4 * 1024

Arguments: TypeAlias = Mapping[str, Any]


class Effect(enum.Enum):
    """What running it does to the world."""

    PURE = "pure"
    READ = "read"
    WRITE = "write"


class CostClass(enum.Enum):
    """What computing a result costs; sets how long it is kept at first."""

    DEFAULT = "default"
    EXPENSIVE = "expensive"
    FREQUENT = "frequent"


class ChangeClass(enum.Enum):
    """How fast the truth behind a result changes; caps how long it is kept."""

    PURE = "pure"
    SLOW = "slow"
    LIVE = "live"
    NEVER = "never"


class Scope(enum.Enum):
    """Whom a result may be shown to."""

    TENANT = "tenant"
    USER = "user"


class ToolFailure(Exception):
    """The tool could not do it, and the model may know why.

    Args:
      message: for the model: what is wrong and, if it can be told, what would work.
      reason: UPPER_SNAKE, stable.
    """

    # Whether it is certain that a WRITE changed nothing.
    nothing_done = False

    def __init__(self, message: str, *, reason: str = "TOOL_FAILED") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class TransientFailure(ToolFailure):
    """It may go better when tried again: what is behind the tool is away, busy or broken."""


class OutcomeUnknown(Exception):
    """The change may or may not have happened (say, the answer to a request was lost)."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the model is shown, and the same as JSON data when there is some.

    `private`: not to be kept, whatever the tool's classes say. `ttl`: seconds for which it is true
    at most, when that is known better than by the tool's classes.
    """

    text: str
    data: Any = None
    private: bool = False
    ttl: float | None = None


class RecordMetric(Protocol):
    def __call__(self, name: str, value: float, labels: Mapping[str, str], /) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """One execution, as the tool sees it.

    `deadline` is on `time.monotonic()`: what runs on past it is cut, and its result thrown away.
    """

    tenant: str
    user: str
    call_id: str
    agent_id: str
    idempotency_key: str
    deadline: float
    record: RecordMetric
    _given_up: threading.Event = field(default_factory=threading.Event)

    def remaining(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def given_up(self) -> bool:
        """Nobody waits for the result any more. For functions in threads, which nothing can cut."""
        return self._given_up.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleeps in a thread, but not on when nobody waits any more; True when that is so."""
        return self._given_up.wait(seconds)

    def give_up(self) -> None:
        self._given_up.set()

    def record_metric(
        self, name: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Records a metric of the tool's own; bounded in number and labels."""
        self.record(name, value, labels or {})


Function: TypeAlias = Callable[[Any, ToolContext], Any]
"""Gives text, an `Output`, or what becomes JSON; or an awaitable of that."""
SourceVersion: TypeAlias = Callable[[str], Awaitable[str]]
"""The version of what a tool reads, for a tenant; no version ever comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A tool. `version` counts the changes of what it does or says; results are kept under it.

    `ttl`: seconds for which a result is kept at first, instead of what `cost` says. `uncacheable`:
    names of arguments that keep a result from being kept, besides the usual ones. `tags`: what kept
    results are about; a WRITE whose `invalidates` says the same makes them untrue. Both may name
    arguments: `customer:{id}`. `retries`: further tries of what may be repeated. `assumed`: nobody
    said what it does to the world, so it is a WRITE to be safe.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    effect: Effect
    function: Function
    version: int = 1
    idempotent: bool = False
    cost: CostClass = CostClass.DEFAULT
    change: ChangeClass = ChangeClass.SLOW
    scope: Scope = Scope.USER
    cacheable: bool = True
    ttl: float | None = None
    uncacheable: frozenset[str] = frozenset()
    source_version: SourceVersion | None = None
    timeout: float = DEFAULT_TIMEOUT
    max_concurrency: int = DEFAULT_CONCURRENCY
    retries: int = 0
    tags: tuple[str, ...] = ()
    invalidates: tuple[str, ...] = ()
    assumed: bool = False

    @property
    def leaves_doubt(self) -> bool:
        """Whether one that did not finish may have changed something that must be looked into."""
        return not self.repeatable and not self.assumed

    @property
    def repeatable(self) -> bool:
        """Whether running it twice is no more than running it once."""
        return self.effect is not Effect.WRITE or self.idempotent

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ValueError(f"the tool {self.name[:80]!r} {problem}")

    def _problem(self) -> str:
        if not _NAME.fullmatch(self.name):
            return "needs a name of 1 to 64 letters, digits, '_' and '-'"
        if not 1 <= len(self.description.encode()) <= _MAX_DESCRIPTION_BYTES:
            return f"needs a description of 1 to {_MAX_DESCRIPTION_BYTES} bytes"
        if self.input_schema.get("type") != "object":
            return "needs an input schema of type object"
        if not 0 < self.timeout <= MAX_TIMEOUT:
            return f"needs a timeout of at most {MAX_TIMEOUT:g} s"
        if self.ttl is not None and self.ttl <= 0:
            return "needs a time to keep its results that is above 0"
        if self.max_concurrency < 1:
            return "needs a concurrency of at least 1"
        if not 0 <= self.retries <= MAX_RETRIES:
            return f"needs 0 to {MAX_RETRIES} retries"
        return ""


class Declared(TypedDict, total=False):
    """What `tool` takes besides; the meaning is that of the fields of `Definition`."""

    version: int
    idempotent: bool
    cost: CostClass
    change: ChangeClass
    scope: Scope
    cacheable: bool
    ttl: float | None
    uncacheable: frozenset[str]
    source_version: SourceVersion | None
    timeout: float
    max_concurrency: int
    retries: int
    tags: tuple[str, ...]
    invalidates: tuple[str, ...]


@overload
def tool(function: Callable[..., Any], /) -> Definition: ...


@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    effect: Effect = Effect.WRITE,
    parameters: Mapping[str, Any] | None = None,
    required: tuple[str, ...] | None = None,
    input_schema: Mapping[str, Any] | None = None,
    **declared: Unpack[Declared],
) -> Callable[[Callable[..., Any]], Definition]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    effect: Effect = Effect.WRITE,
    parameters: Mapping[str, Any] | None = None,
    required: tuple[str, ...] | None = None,
    input_schema: Mapping[str, Any] | None = None,
    **declared: Unpack[Declared],
) -> Definition | Callable[[Callable[..., Any]], Definition]:
    """Makes a `Definition` of a function: `@tool`, or `@tool(effect=Effect.READ, …)`.

    Without `parameters` and `input_schema` the schema is read from the types of the function's own
    parameters (`peregrine.tools.signatures`). With one of them the function takes two: the
    arguments, as they came, and the context.

    Args:
      name: the function's own, when empty.
      description: what the docstring says, when empty.
      effect: who says nothing changes something.
      parameters: JSON Schemas by argument; all of them required unless `required` says which.
      input_schema: the whole schema, instead of `parameters`.

    Raises:
      ValueError: the declaration is not one of a tool.
    """
    if parameters is not None and input_schema is not None:
        raise ValueError(f"the tool {name!r} needs either parameters or an input schema")
    if parameters is not None:
        input_schema = {
            "type": "object",
            "properties": dict(parameters),
            "required": list(parameters if required is None else required),
            "additionalProperties": False,
        }

    def define(function: Callable[..., Any]) -> Definition:
        called = name or function.__name__
        schema, words = input_schema, description or inspect.getdoc(function) or ""
        if schema is None:
            try:
                signature = signatures.read(function, context=ToolContext)
            except ValueError as error:
                raise ValueError(f"the tool {called!r}: {error}") from None
            schema, words = signature.schema, description or signature.description
            function = signatures.adapted(function, signature)
        return Definition(
            name=called,
            description=words,
            input_schema=schema,
            effect=effect,
            function=function,
            **declared,
        )

    return define if function is None else define(function)
