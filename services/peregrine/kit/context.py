"""What a call carries through every service: identity, deadline, retry budget, trace and run.

All of it is one immutable `Call` in one context variable. A server interceptor fills it from the
metadata of the incoming call; `ChannelPool` writes it into the metadata of each outgoing one. Tasks
inherit it, so code in between passes nothing by hand. Work outside a call (a run that outlives the
call that started it) opens its own with `bind`.

The retry budget is the one mutable part, on purpose: it belongs to the run, and parallel calls of
one run draw from the same few retries.

Identity is read and written in two functions here, `read_identity` and `write_identity`, and
nowhere else: whoever signs these metadata changes those two.
"""

import contextvars
import dataclasses
import functools
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from peregrine.kit import handlers
from peregrine.kit.errors import InvalidArgument, Unauthenticated

TENANT_KEY = "peregrine-tenant"
USER_KEY = "peregrine-user"
RETRY_BUDGET_KEY = "peregrine-retry-budget"
RUN_KEY = "peregrine-run-id"
TRACE_KEY = "traceparent"

DEFAULT_RETRIES = 3

_NAME = re.compile(r"[a-z0-9][a-z0-9_.@-]{0,62}")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
# W3C Trace Context, version 00; all-zero ids are invalid there.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a call acts for. Both names match `[a-z0-9][a-z0-9_.@-]{0,62}`.

    Raises:
      ValueError: a name does not match; it may end in SQL settings, keys and log names.
    """

    tenant: str
    user: str

    def __post_init__(self) -> None:
        for name in (self.tenant, self.user):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:80]!r} is not a name of a tenant or user")


LOCAL = Identity("local", "local")


class RetryBudget:
    """How many retries are left for the whole run, shared by all its calls in this process."""

    __slots__ = ("remaining",)

    def __init__(self, remaining: int = DEFAULT_RETRIES) -> None:
        self.remaining = max(remaining, 0)

    def take(self) -> bool:
        """Uses one retry; False when none is left."""
        if self.remaining <= 0:
            return False
        self.remaining -= 1
        return True


@dataclass(frozen=True, slots=True)
class Call:
    """The current call. `deadline` is on the monotonic clock; None means the caller set none."""

    identity: Identity | None
    retries: RetryBudget
    traceparent: str
    deadline: float | None = None
    run_id: str = ""
    conversation_id: str = ""


_current: contextvars.ContextVar[Call | None] = contextvars.ContextVar(
    "peregrine_call", default=None
)


def current() -> Call | None:
    return _current.get()


def identity() -> Identity:
    """Who the current work is for.

    Raises:
      Unauthenticated: IDENTITY_MISSING, when nothing said so.
    """
    call = _current.get()
    if call is None or call.identity is None:
        raise Unauthenticated("no tenant and user are known here", reason="IDENTITY_MISSING")
    return call.identity


def deadline_remaining() -> float | None:
    """Seconds until the caller stops waiting, 0 when past; None without a deadline."""
    call = _current.get()
    if call is None or call.deadline is None:
        return None
    return max(call.deadline - time.monotonic(), 0.0)


def retry_budget() -> RetryBudget:
    """The budget of the current run; outside of one, a fresh default."""
    call = _current.get()
    return RetryBudget() if call is None else call.retries


def new_traceparent() -> str:
    return f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-01"


@contextmanager
def bind(
    *,
    identity: Identity | None = None,
    timeout: float | None = None,
    retries: int | RetryBudget | None = None,
    run_id: str | None = None,
    conversation_id: str | None = None,
    traceparent: str | None = None,
    detach: bool = False,
) -> Iterator[Call]:
    """Runs a block under a changed context; what is not named is inherited.

    Args:
      timeout: seconds from now; only ever shortens an inherited deadline.
      detach: inherit neither the deadline nor the retry budget, for work that outlives its caller.
    """
    outer = _current.get()
    if outer is None:
        outer = Call(None, RetryBudget(), traceparent or new_traceparent())
    deadline = None if detach else outer.deadline
    if timeout is not None:
        own = time.monotonic() + timeout
        deadline = own if deadline is None else min(own, deadline)
    budget = RetryBudget() if detach else outer.retries
    if retries is not None:
        budget = RetryBudget(retries) if isinstance(retries, int) else retries
    call = dataclasses.replace(
        outer,
        identity=identity or outer.identity,
        retries=budget,
        deadline=deadline,
        run_id=outer.run_id if run_id is None else run_id,
        conversation_id=outer.conversation_id if conversation_id is None else conversation_id,
        traceparent=traceparent or outer.traceparent,
    )
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


@contextmanager
def with_identity(identity: Identity) -> Iterator[None]:
    """Runs a block on behalf of `identity`, for work that no call started."""
    with bind(identity=identity):
        yield


def note_conversation(conversation_id: str) -> None:
    """Adds the conversation to the current call, so that its log lines name it."""
    call = _current.get()
    if call is not None:
        _current.set(dataclasses.replace(call, conversation_id=conversation_id))


def log_fields() -> dict[str, str]:
    """The ids of the current call that belong on a log line."""
    call = _current.get()
    if call is None:
        return {}
    fields = {"trace_id": call.traceparent[3:35]}
    if call.identity is not None:
        fields["tenant"] = call.identity.tenant
    if call.run_id:
        fields["run_id"] = call.run_id
    if call.conversation_id:
        fields["conversation_id"] = call.conversation_id
    return fields


def write_identity(identity: Identity) -> tuple[tuple[str, str], ...]:
    """The metadata that say who a call acts for."""
    return ((TENANT_KEY, identity.tenant), (USER_KEY, identity.user))


def read_identity(metadata: Mapping[str, Any], *, required: bool) -> Identity:
    """Who an incoming call acts for.

    Raises:
      Unauthenticated: IDENTITY_MISSING or IDENTITY_INVALID.
    """
    tenant, user = metadata.get(TENANT_KEY), metadata.get(USER_KEY)
    if tenant is None and user is None and not required:
        return LOCAL
    if tenant is None or user is None:
        raise Unauthenticated("the call names no tenant and user", reason="IDENTITY_MISSING")
    try:
        return _known(tenant, user)
    except ValueError:
        raise Unauthenticated(
            "the call's tenant or user is not a valid name", reason="IDENTITY_INVALID"
        ) from None


@functools.lru_cache(maxsize=1024)
def _known(tenant: str, user: str) -> Identity:
    return Identity(tenant, user)


def outgoing(call: Call | None) -> list[tuple[str, str]]:
    """The metadata of a call made under `call`. The budget is read anew for each attempt."""
    if call is None:
        return [(RETRY_BUDGET_KEY, str(DEFAULT_RETRIES)), (TRACE_KEY, new_traceparent())]
    metadata = [(RETRY_BUDGET_KEY, str(call.retries.remaining)), (TRACE_KEY, call.traceparent)]
    if call.identity is not None:
        metadata += write_identity(call.identity)
    if call.run_id:
        metadata.append((RUN_KEY, call.run_id))
    return metadata


class ContextInterceptor(grpc.aio.ServerInterceptor):
    """Fills the context of each call from its metadata; stands inside the error interceptor."""

    def __init__(self, *, auth_required: bool) -> None:
        self._auth_required = auth_required
        self._wrapped = handlers.Wrapped(self._wrap)

    async def intercept_service(
        self,
        continuation: handlers.Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        return self._wrapped.get(handler_call_details.method, handler)

    def _wrap(self, method: str, behavior: handlers.Behavior) -> handlers.Behavior:
        async def in_context(request: Any, context: handlers.Context) -> Any:
            # A call has a task, hence a context, of its own: nothing to restore afterwards.
            _current.set(self._read(context))
            return await behavior(request, context)

        return in_context

    def _read(self, context: handlers.Context) -> Call:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        trace = metadata.get(TRACE_KEY)
        run_id = metadata.get(RUN_KEY, "")
        if run_id and not _RUN.fullmatch(run_id):
            raise InvalidArgument("the run id in the metadata is malformed", reason="BAD_METADATA")
        return Call(
            identity=read_identity(metadata, required=self._auth_required),
            retries=RetryBudget(_budget(metadata.get(RETRY_BUDGET_KEY))),
            traceparent=trace if trace and _TRACEPARENT.fullmatch(trace) else new_traceparent(),
            deadline=None if remaining is None else time.monotonic() + remaining,
            run_id=run_id,
        )


def _budget(text: Any) -> int:
    # A caller may lower the budget of its run, never raise it.
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 4:
        return min(int(text), DEFAULT_RETRIES)
    return DEFAULT_RETRIES
