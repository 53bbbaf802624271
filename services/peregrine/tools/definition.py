"""What a tool is, for those who write one.

A tool is a function with a declaration beside it:

    @tool(
        name="shout",
        description="Gives the text back in capitals. Use it when ...",
        parameters={"text": {"type": "string"}},
        effect=Effect.PURE,
    )
    async def shout(arguments: Arguments, context: ToolContext) -> Output:
        return Output(arguments["text"].upper())

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
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 300.0
DEFAULT_CONCURRENCY = 10

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

    def __init__(self, message: str, *, reason: str = "TOOL_FAILED") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class OutcomeUnknown(Exception):
    """The change may or may not have happened (say, the answer to a request was lost)."""


@dataclass(frozen=True, slots=True)
class Output:
    """What the model is shown, and the same as JSON data when there is some."""

    text: str
    data: Any = None


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

    def give_up(self) -> None:
        self._given_up.set()

    def record_metric(
        self, name: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Records a metric of the tool's own; bounded in number and labels."""
        self.record(name, value, labels or {})


Result: TypeAlias = Output | str | Mapping[str, Any] | list[Any]
Function: TypeAlias = Callable[[Any, ToolContext], Result | Awaitable[Result]]
SourceVersion: TypeAlias = Callable[[str], Awaitable[str]]
"""The version of what a tool reads, for a tenant; no version ever comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A tool. `version` counts the changes of what it does or says; results are kept under it.

    `ttl`: seconds for which a result is kept at first, instead of what `cost` says. `uncacheable`:
    names of arguments that keep a result from being kept, besides the usual ones.
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
        return ""


def tool(
    *,
    name: str,
    description: str,
    effect: Effect,
    parameters: Mapping[str, Any] | None = None,
    required: tuple[str, ...] | None = None,
    input_schema: Mapping[str, Any] | None = None,
    version: int = 1,
    idempotent: bool = False,
    cost: CostClass = CostClass.DEFAULT,
    change: ChangeClass = ChangeClass.SLOW,
    scope: Scope = Scope.USER,
    cacheable: bool = True,
    ttl: float | None = None,
    uncacheable: frozenset[str] = frozenset(),
    source_version: SourceVersion | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    max_concurrency: int = DEFAULT_CONCURRENCY,
) -> Callable[[Function], Definition]:
    """Makes a `Definition` of a function.

    Args:
      parameters: JSON Schemas by argument; all of them required unless `required` says which.
      input_schema: the whole schema, instead of `parameters`.

    Raises:
      ValueError: the declaration is not one of a tool.
    """
    if (parameters is None) == (input_schema is None):
        raise ValueError(f"the tool {name!r} needs either parameters or an input schema")
    if parameters is not None:
        input_schema = {
            "type": "object",
            "properties": dict(parameters),
            "required": list(parameters if required is None else required),
            "additionalProperties": False,
        }

    def define(function: Function) -> Definition:
        return Definition(
            name=name,
            description=description,
            input_schema=input_schema or {},
            effect=effect,
            function=function,
            version=version,
            idempotent=idempotent,
            cost=cost,
            change=change,
            scope=scope,
            cacheable=cacheable,
            ttl=ttl,
            uncacheable=uncacheable,
            source_version=source_version,
            timeout=timeout,
            max_concurrency=max_concurrency,
        )

    return define
