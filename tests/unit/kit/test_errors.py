"""Errors survive the wire: code, one ErrorInfo, retry delay and violations, always small."""

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from peregrine.kit import errors
from peregrine.kit.errors import PeregrineError

KINDS = [
    errors.InvalidArgument,
    errors.NotFound,
    errors.AlreadyExists,
    errors.FailedPrecondition,
    errors.Aborted,
    errors.OutOfRange,
    errors.PermissionDenied,
    errors.Unauthenticated,
    errors.ResourceExhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Unimplemented,
    errors.Internal,
]


def over_the_wire(error: PeregrineError) -> PeregrineError:
    status = errors.to_status(error)
    return errors.from_rpc_error(
        AioRpcError(
            error.code,
            Metadata(),
            Metadata((errors.DETAILS_KEY, status.SerializeToString())),
            details=status.message,
        )
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_comes_back_as_itself(kind: type[PeregrineError]) -> None:
    sent = kind(
        "what went wrong",
        reason="SOME_REASON",
        metadata={"limit": "10"},
        retry_after=1.5,
        violations=[("message", "is empty")],
    )
    read = over_the_wire(sent)
    assert type(read) is kind
    assert (read.message, read.reason) == ("what went wrong", "SOME_REASON")
    assert read.metadata == {"limit": "10"}
    assert read.retry_after == 1.5
    assert read.violations == (("message", "is empty"),)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_exactly_one_error_info_of_our_domain(kind: type[PeregrineError]) -> None:
    status = errors.to_status(kind("x", reason="SOME_REASON"))
    infos = [
        error_details_pb2.ErrorInfo.FromString(detail.value)
        for detail in status.details
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    ]
    assert [(info.reason, info.domain) for info in infos] == [("SOME_REASON", "peregrine.dev")]
    assert status.code == kind.code.value[0]


@pytest.mark.parametrize("reason", ["", "x", "lower_case", "A B", "_A", "A_", "A" * 64])
def test_a_reason_is_upper_snake(reason: str) -> None:
    with pytest.raises(ValueError, match="UPPER_SNAKE"):
        errors.NotFound("x", reason=reason)


@given(
    message=st.text(max_size=5000),
    metadata=st.dictionaries(st.text(max_size=300), st.text(max_size=3000), max_size=40),
    violations=st.lists(st.tuples(st.text(max_size=900), st.text(max_size=900)), max_size=60),
)
def test_an_error_fits_into_trailing_metadata_whatever_is_in_it(
    message: str, metadata: dict[str, str], violations: list[tuple[str, str]]
) -> None:
    error = errors.InvalidArgument(
        message, reason="BAD", metadata=metadata, violations=violations, retry_after=1
    )
    status = errors.to_status(error)
    # Percent-encoded once as grpc-message, base64 once inside the details.
    assert 3 * len(status.message.encode()) + 4 / 3 * len(status.SerializeToString()) < 7 * 1024


def test_a_failure_that_no_service_wrote_has_its_code_as_reason() -> None:
    read = errors.from_rpc_error(AioRpcError(grpc.StatusCode.UNAVAILABLE, details="refused"))
    assert type(read) is errors.Unavailable
    assert (read.message, read.reason, read.retry_after) == ("refused", "UNAVAILABLE", None)


def test_a_message_over_the_limit_has_a_reason_of_its_own() -> None:
    details = "CLIENT: Sent message larger than max (17825797 vs. 16777216)"
    read = errors.from_rpc_error(AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, details=details))
    assert read.reason == "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_code_can_be_read(code: grpc.StatusCode) -> None:
    assert isinstance(errors.from_rpc_error(AioRpcError(code)), PeregrineError)


def test_garbage_in_the_details_is_ignored() -> None:
    metadata = Metadata((errors.DETAILS_KEY, b"\xff\xff\xff garbage"))
    error = AioRpcError(grpc.StatusCode.ABORTED, Metadata(), metadata, details="x")
    assert errors.from_rpc_error(error).reason == "ABORTED"
