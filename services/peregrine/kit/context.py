"""What a call carries through every service: identity, deadline, retry budget, trace and run.

All of it is one immutable `Call` in one context variable. A server interceptor fills it from the
metadata of the incoming call; `ChannelPool` writes it into the metadata of each outgoing one. Tasks
inherit it, so code in between passes nothing by hand. Work outside a call (a run that outlives the
call that started it) opens its own with `bind`.

The retry budget is the one mutable part, on purpose: it belongs to the run, and parallel calls of
one run draw from the same few retries.

Who a call is for is shown to the next service by a `Proof`, which signs it (`kit.identity`). Where
identity is off (`make run`, on loopback) nothing signs: tenant and user travel as they are.
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
from typing import Any, Protocol

import grpc
import grpc.aio

from peregrine.kit import handlers, scopes
from peregrine.kit.errors import InvalidArgument, PermissionDenied, Unauthenticated

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


class Proof(Protocol):
    """What shows to other services who a call is for."""

    def metadata(self) -> tuple[str, str]:
        """One pair of metadata, good for a call that begins now."""
        ...

    async def renew(self) -> None:
        """Makes sure that `metadata` is good for a while, for a call that is made again late.

        Raises:
          PeregrineError: what it was given for is not good any more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as the door of a service found it, and what that allows."""

    identity: Identity
    scopes: frozenset[str]
    proof: Proof | None = None


class Door(Protocol):
    """Where a server learns who calls."""

    async def admit(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        """Who makes this call.

        Raises:
          Unauthenticated: CREDENTIALS_MISSING or CREDENTIALS_INVALID.
        """
        ...


class OpenDoor:
    """Believes what a call says, for servers that only this machine reaches; silence is LOCAL."""

    async def admit(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        tenant, user = metadata.get(TENANT_KEY), metadata.get(USER_KEY)
        if tenant is None and user is None:
            return _LOCAL_CALLER
        try:
            return Caller(_known(tenant, user), scopes.OF_BOOTSTRAP)
        except (TypeError, ValueError):
            raise Unauthenticated(
                "the call's tenant or user is not a valid name", reason="IDENTITY_INVALID"
            ) from None


_LOCAL_CALLER = Caller(LOCAL, scopes.OF_BOOTSTRAP)


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
    scopes: frozenset[str] = frozenset()
    proof: Proof | None = None


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


def allowed() -> frozenset[str]:
    """The scopes of the current caller."""
    call = _current.get()
    return frozenset() if call is None else call.scopes


def allows(scope: str) -> bool:
    """Whether the current caller has a scope."""
    return scope in allowed()


async def renew_proof() -> None:
    """Before a call is made again long after the one it repeats: see `Proof.renew`."""
    call = _current.get()
    if call is not None and call.proof is not None:
        await call.proof.renew()


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
    proof: Proof | None = None,
    allowed: frozenset[str] | None = None,
    timeout: float | None = None,
    retries: int | RetryBudget | None = None,
    run_id: str | None = None,
    conversation_id: str | None = None,
    traceparent: str | None = None,
    detach: bool = False,
) -> Iterator[Call]:
    """Runs a block under a changed context; what is not named is inherited.

    Args:
      proof: shows the identity to other services; that of another identity is never inherited.
      allowed: the scopes of the identity; inherited with it.
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
    same = identity is None or identity == outer.identity
    call = dataclasses.replace(
        outer,
        identity=identity or outer.identity,
        proof=proof or (outer.proof if same else None),
        scopes=allowed if allowed is not None else outer.scopes if same else frozenset(),
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
        fields["user"] = call.identity.user
    if call.run_id:
        fields["run_id"] = call.run_id
    if call.conversation_id:
        fields["conversation_id"] = call.conversation_id
    return fields


@functools.lru_cache(maxsize=1024)
def _known(tenant: str, user: str) -> Identity:
    return Identity(tenant, user)


def outgoing(call: Call | None) -> list[tuple[str, str]]:
    """The metadata of a call made under `call`. The budget is read anew for each attempt."""
    if call is None:
        return [(RETRY_BUDGET_KEY, str(DEFAULT_RETRIES)), (TRACE_KEY, new_traceparent())]
    metadata = [(RETRY_BUDGET_KEY, str(call.retries.remaining)), (TRACE_KEY, call.traceparent)]
    if call.proof is not None:
        metadata.append(call.proof.metadata())
    elif call.identity is not None:
        # Believed only where identity is off.
        metadata += ((TENANT_KEY, call.identity.tenant), (USER_KEY, call.identity.user))
    if call.run_id:
        metadata.append((RUN_KEY, call.run_id))
    return metadata


class ContextInterceptor(grpc.aio.ServerInterceptor):
    """Fills the context of each call from its metadata; stands inside the error interceptor.

    Health and reflection are not asked who they are; every other method goes through the door, and
    needs the scope that `kit.scopes` names for it.
    """

    def __init__(self, *, door: Door) -> None:
        self._door = door
        self._wrapped = handlers.Wrapped(self._wrap)

    async def intercept_service(
        self,
        continuation: handlers.Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        return self._wrapped.get(handler_call_details.method, handler)

    def _wrap(self, method: str, behavior: handlers.Behavior) -> handlers.Behavior:
        needed = scopes.NEEDED.get(method, scopes.ADMIN)

        async def in_context(request: Any, context: handlers.Context) -> Any:
            metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
            caller = await self._door.admit(method, metadata)
            if needed and needed not in caller.scopes:
                raise PermissionDenied(
                    f"this needs the scope {needed!r}, which the credential does not have",
                    reason="SCOPE_MISSING",
                    metadata={"scope": needed},
                )
            # A call has a task, hence a context, of its own: nothing to restore afterwards.
            _current.set(_read(metadata, context, caller))
            return await behavior(request, context)

        return in_context


def _read(metadata: Mapping[str, Any], context: handlers.Context, caller: Caller) -> Call:
    remaining = context.time_remaining()
    trace = metadata.get(TRACE_KEY)
    run_id = metadata.get(RUN_KEY, "")
    if run_id and not _RUN.fullmatch(run_id):
        raise InvalidArgument("the run id in the metadata is malformed", reason="BAD_METADATA")
    return Call(
        identity=caller.identity,
        retries=RetryBudget(_budget(metadata.get(RETRY_BUDGET_KEY))),
        traceparent=trace if trace and _TRACEPARENT.fullmatch(trace) else new_traceparent(),
        deadline=None if remaining is None else time.monotonic() + remaining,
        run_id=run_id,
        scopes=caller.scopes,
        proof=caller.proof,
    )


def _budget(text: Any) -> int:
    # A caller may lower the budget of its run, never raise it.
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 4:
        return min(int(text), DEFAULT_RETRIES)
    return DEFAULT_RETRIES
