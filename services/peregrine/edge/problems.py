"""Errors as `application/problem+json` (RFC 9457), with the reason that gRPC callers get, too.

`reason` is the stable one that programs branch on; `type` is the same as a URI. `violations` name
the fields that are wrong; a `Retry-After` header (and `retry_after`, in seconds) says when another
attempt makes sense.
"""

import math
import secrets
from http import HTTPStatus
from typing import Any

import grpc
import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from peregrine.kit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PeregrineError,
    ResourceExhausted,
    Unimplemented,
)

MEDIA_TYPE = "application/problem+json"
TYPE = "https://peregrine.dev/errors/"

_MAX_TEXT = 200

log = structlog.get_logger(__name__)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.GONE,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
# Where HTTP has a status that says more than the one of the code.
_STATUS_OF_REASON = {
    "ROUTE_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "BODY_TOO_SLOW": 408,
    "BODY_TOO_LARGE": 413,
    "HOST_NOT_ALLOWED": 421,
}


def status(error: PeregrineError) -> HTTPStatus:
    if number := _STATUS_OF_REASON.get(error.reason):
        return HTTPStatus(number)
    return _STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def document(error: PeregrineError) -> dict[str, Any]:
    """The members of the problem."""
    code = status(error)
    members: dict[str, Any] = {
        "type": TYPE + error.reason,
        "title": code.phrase,
        "status": code.value,
        "detail": error.message,
        "code": error.code.name,
        "reason": error.reason,
    }
    if error.violations:
        members["violations"] = [
            {"field": field, "description": description} for field, description in error.violations
        ]
    if error.metadata:
        members["metadata"] = dict(sorted(error.metadata.items()))
    if error.retry_after is not None:
        members["retry_after"] = error.retry_after
    return members


# What a client is told of how to do better (RFC 6750).
_CHALLENGES = {
    "CREDENTIALS_MISSING": 'Bearer realm="peregrine"',
    "CREDENTIALS_INVALID": 'Bearer realm="peregrine", error="invalid_token"',
    "SCOPE_MISSING": 'Bearer realm="peregrine", error="insufficient_scope"',
}


def response(error: PeregrineError, headers: dict[str, str] | None = None) -> Response:
    extra = {"Cache-Control": "no-store", **(headers or {})}
    if challenge := _CHALLENGES.get(error.reason):
        scope = error.metadata.get("scope", "")
        extra["WWW-Authenticate"] = challenge + (f', scope="{scope}"' if scope else "")
    if error.retry_after is not None:
        extra["Retry-After"] = str(math.ceil(error.retry_after))
    return Response(
        orjson.dumps(document(error)),
        status_code=status(error).value,
        media_type=MEDIA_TYPE,
        headers=extra,
    )


def unforeseen(raised: Exception, where: str) -> Internal:
    """An error that nobody foresaw: its details are in the log, under the id that is shown."""
    error_id = secrets.token_hex(8)
    log.error(
        "request_failed",
        where=where,
        error_id=error_id,
        error=type(raised).__name__,
        exc_info=raised,
    )
    return Internal(
        f"internal error {error_id}", reason="INTERNAL_ERROR", metadata={"error_id": error_id}
    )


def install(app: FastAPI) -> None:
    """Every error that leaves a route leaves as a problem."""

    async def raised(_: Request, error: Exception) -> Response:
        return response(_known(error))

    async def refused(_: Request, error: Exception) -> Response:
        return response(_invalid(error))

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(app, request))
        return response(_of_http(error), headers)

    async def failed(request: Request, error: Exception) -> Response:
        return response(unforeseen(error, f"{request.method} {request.url.path}"))

    app.add_exception_handler(PeregrineError, raised)
    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)


def _known(error: Exception) -> PeregrineError:
    return error if isinstance(error, PeregrineError) else unforeseen(error, "handler")


def _invalid(error: Exception) -> PeregrineError:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    violations = [
        (_field(problem.get("loc", ())), str(problem.get("msg", ""))[:_MAX_TEXT])
        for problem in problems[:20]
    ]
    first = "; ".join(f"{field}: {said}" for field, said in violations[:3])
    return InvalidArgument(
        first or "the request is not valid", reason="REQUEST_INVALID", violations=violations
    )


def _field(location: Any) -> str:
    # ("body", "labels", "a") is labels.a; a whole body or a path is named as such.
    parts = [str(part)[:_MAX_TEXT] for part in location]
    return ".".join(parts[1:] if len(parts) > 1 else parts)


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """The methods of every route at this path; each route alone knows only its own."""
    methods: set[str] = set()
    for route in app.routes:
        matched, _ = route.matches(request.scope)
        if matched is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def _of_http(error: HTTPException) -> PeregrineError:
    match error.status_code:
        case 404:
            return NotFound("there is nothing at this path", reason="ROUTE_NOT_FOUND")
        case 405:
            return Unimplemented("this path does not take that method", reason="METHOD_NOT_ALLOWED")
        case 408:
            return DeadlineExceeded("the body came too slowly", reason="BODY_TOO_SLOW")
        case 413:
            return too_large()
        case 400:
            # What FastAPI says when a body cannot be read at all.
            return InvalidArgument(str(error.detail)[:_MAX_TEXT], reason="REQUEST_INVALID")
    return unforeseen(error, "http")


def too_large() -> PeregrineError:
    return ResourceExhausted("the body is larger than 1 MiB", reason="BODY_TOO_LARGE")
