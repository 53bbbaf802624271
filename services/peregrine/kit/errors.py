"""Errors: one designed tree, turned into wire form in one place.

    PeregrineError
      InvalidArgument     what was sent can never be right; carries field violations
      NotFound            it does not exist, or not for this tenant
      AlreadyExists       it exists, or the request id was used with another body
      FailedPrecondition  the state must change before this can work
      Aborted             another writer was first; read again and retry
      OutOfRange          the position is gone or beyond the end
      PermissionDenied    known, but not allowed
      Unauthenticated     nobody knows who is calling
      ResourceExhausted   refused for load or quota; says when to come back
      Unavailable         a part is away for the moment; says when to come back
      DeadlineExceeded    the time that the caller gave is over
      Unimplemented       the method exists only in the contract
      Internal            our fault; details stay in the log, under an error id

Each error names a `reason` (UPPER_SNAKE, stable: callers branch on it) beside a message for people.
On the wire it is the canonical code with exactly one `google.rpc.ErrorInfo`, plus `RetryInfo` and
`BadRequest` where they apply (AIP-193). Domain code raises; `ErrorInterceptor` writes; a client
reads it back with `from_rpc_error`. Cancellation is not in the tree: `CancelledError` passes.
"""

import asyncio
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from peregrine.kit import handlers

DOMAIN = "peregrine.dev"
DETAILS_KEY = "grpc-status-details-bin"

# A client refuses trailing metadata of more than 8 KiB, and the status with it. The message travels
# twice (percent-encoded, then inside the details, base64), so all is bounded well below, in bytes.
_MAX_MESSAGE = 512
_MAX_TEXT = 200
_MAX_METADATA = 1000
_MAX_VIOLATIONS = 1400

_TOO_LARGE = "message larger than max"
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]")
log = structlog.get_logger(__name__)


class PeregrineError(Exception):
    """An error that a caller is meant to understand.

    Args:
      message: for people; free of secrets and of other tenants' data.
      reason: UPPER_SNAKE, stable, at most 63 characters; programs branch on it.
      metadata: small facts beside the reason (which limit, which id).
      retry_after: seconds after which a new attempt makes sense.
      violations: (field, what is wrong with it) of a bad request.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        if not _REASON.fullmatch(reason):
            raise ValueError(f"an error's reason is UPPER_SNAKE, not {reason!r}")
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason!r})"


class InvalidArgument(PeregrineError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(PeregrineError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(PeregrineError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(PeregrineError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(PeregrineError):
    code = grpc.StatusCode.ABORTED


class OutOfRange(PeregrineError):
    code = grpc.StatusCode.OUT_OF_RANGE


class PermissionDenied(PeregrineError):
    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(PeregrineError):
    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(PeregrineError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(PeregrineError):
    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(PeregrineError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(PeregrineError):
    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(PeregrineError):
    code = grpc.StatusCode.INTERNAL


class StartRefused(FailedPrecondition):
    """A process cannot start as it is configured; the message is one line that says what to do."""

    def __init__(self, message: str, *, reason: str = "START_REFUSED") -> None:
        super().__init__(message, reason=reason)


_BY_CODE: dict[grpc.StatusCode, type[PeregrineError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Unimplemented,
        Internal,
    )
}
# A peer that cuts a call (it is going away) answers CANCELLED: to the caller that is "away".
_BY_CODE[grpc.StatusCode.CANCELLED] = Unavailable

# What a handler may let through from a call it made, even when the far side gave no reason.
_PASSED_ON = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)


def to_status(error: PeregrineError) -> status_pb2.Status:
    """The wire form: one ErrorInfo, then RetryInfo and BadRequest where they apply."""
    status = status_pb2.Status(code=error.code.value[0], message=_cut(error.message, _MAX_MESSAGE))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in _within(_MAX_METADATA, error.metadata.items()):
        info.metadata[key] = value
    status.details.append(_packed(info))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(max(error.retry_after, 0.0) * 1e9))
        status.details.append(_packed(retry))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for field, description in _within(_MAX_VIOLATIONS, error.violations):
            bad.field_violations.add(field=field, description=description)
        status.details.append(_packed(bad))
    return status


def from_rpc_error(error: grpc.aio.AioRpcError) -> PeregrineError:
    """The error that the far side raised, with its reason, delay and violations.

    A failure that no Peregrine service wrote (a refused connection) has the name of its code as
    reason; a message over the size limit, which gRPC itself refuses, has MESSAGE_TOO_LARGE.
    """
    code = error.code()
    kind = _BY_CODE.get(code, Internal)
    reason = "MESSAGE_TOO_LARGE" if _TOO_LARGE in (error.details() or "") else code.name
    metadata: dict[str, str] = {}
    retry_after: float | None = None
    violations: list[tuple[str, str]] = []
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if _REASON.fullmatch(info.reason):
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.ToNanoseconds() / 1e9
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations = [(each.field, each.description) for each in bad.field_violations]
    return kind(
        error.details() or code.name,
        reason=reason,
        metadata=metadata,
        retry_after=retry_after,
        violations=violations,
    )


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Outermost on every server: what a handler raises leaves as a typed error.

    The one broad catch of a service. What nobody foresaw becomes INTERNAL / INTERNAL_ERROR with an
    error id; the traceback is in one log line under the same id and never on the wire.
    """

    def __init__(self) -> None:
        self._wrapped = handlers.Wrapped(_guard)

    async def intercept_service(
        self,
        continuation: handlers.Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        return self._wrapped.get(handler_call_details.method, handler)


def _guard(method: str, behavior: handlers.Behavior) -> handlers.Behavior:
    async def guarded(request: Any, context: handlers.Context) -> Any:
        try:
            return await behavior(request, context)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled this call: something inside it was. grpc.aio would send no status at
            # all and leave the caller waiting for its deadline.
            error: PeregrineError = Unavailable(
                "the work was given up by the server", reason="WORK_CANCELLED", retry_after=1.0
            )
        except Exception as raised:
            error = _understood(method, raised, context)
        status = to_status(error)
        await context.abort(
            error.code, status.message, ((DETAILS_KEY, status.SerializeToString()),)
        )

    return guarded


def _understood(method: str, raised: Exception, context: handlers.Context) -> PeregrineError:
    match raised:
        case PeregrineError():
            return raised
        case ExceptionGroup():
            # A TaskGroup wraps what its tasks raise; the first that a caller can understand counts.
            leaves = list(_leaves(raised))
            if all(isinstance(leaf, PeregrineError) for leaf in leaves):
                return _understood(method, leaves[0], context)
        case handlers.NotBuilt():
            return Unimplemented("this method is not built yet", reason="METHOD_NOT_IMPLEMENTED")
        case grpc.aio.AioRpcError():
            if raised.code() in _PASSED_ON or any(
                detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) for detail in _details(raised)
            ):
                return from_rpc_error(raised)
        case TimeoutError():
            left = context.time_remaining()
            if left is not None and left <= 0:
                return DeadlineExceeded("the deadline has passed", reason="DEADLINE_EXCEEDED")
    error_id = secrets.token_hex(8)
    log.error(
        "handler_failed",
        method=method,
        error_id=error_id,
        error=type(raised).__name__,
        exc_info=raised,
    )
    return Internal(
        f"internal error {error_id}", reason="INTERNAL_ERROR", metadata={"error_id": error_id}
    )


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for each in group.exceptions:
        if isinstance(each, ExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _details(error: grpc.aio.AioRpcError) -> Sequence[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                status: status_pb2.Status = status_pb2.Status.FromString(value)
                return list(status.details)
            except message.DecodeError:
                return ()
    return ()


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _within(limit: int, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The first of `pairs`, each text cut, as many as fit into `limit` bytes."""
    for name, text in pairs:
        pair = _cut(str(name), _MAX_TEXT), _cut(str(text), _MAX_TEXT)
        limit -= sum(len(each.encode()) for each in pair) + 8
        if limit < 0:
            return
        yield pair


def _cut(text: str, limit: int) -> str:
    # A lone surrogate cannot be sent; it must not turn a typed error into an unforeseen one.
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"
