"""PostgreSQL cut off: typed refusals with a delay, and service as before when it is back."""

import uuid
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from peregrine.api.memory.v1 import memory_pb2, memory_pb2_grpc
from peregrine.kit.errors import from_rpc_error
from peregrine.kit.settings import Secret
from peregrine.memory import main
from tests.component.memory.test_turns import turn
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy


@pytest.fixture
async def proxy(migrated_dsn: str) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(socket_path(migrated_dsn)) as proxy:
        yield proxy


@pytest.fixture
async def stub(
    migrated_dsn: str, proxy: FaultProxy
) -> AsyncIterator[memory_pb2_grpc.MemoryServiceStub]:
    dsn = Secret(through(migrated_dsn, proxy.address))
    settings = main.Settings(
        auth_required=False, listen="127.0.0.1:0", postgres_dsn=dsn, postgres_pool_size=2
    )
    async with main.build(settings) as server, server:
        await server.serving()
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield memory_pb2_grpc.MemoryServiceStub(channel)


async def test_a_turn_is_refused_while_postgresql_is_cut_off_and_repeated_once_it_is_back(
    stub: memory_pb2_grpc.MemoryServiceStub, proxy: FaultProxy
) -> None:
    conversation = str(uuid.uuid4())
    await stub.BeginTurn(turn(conversation, "one", request_id="r1"), timeout=20)
    second = turn(conversation, "two", request_id="r2")
    proxy.cut()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.BeginTurn(second, timeout=20)
    error = from_rpc_error(caught.value)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error.reason == "POSTGRES_UNAVAILABLE"
    assert error.retry_after is not None and error.retry_after > 0
    proxy.resume()

    async def begun() -> memory_pb2.BeginTurnResponse | None:
        try:
            answer: memory_pb2.BeginTurnResponse = await stub.BeginTurn(second, timeout=20)
        except grpc.aio.AioRpcError as again:
            assert again.code() is grpc.StatusCode.UNAVAILABLE
            return None
        return answer

    answer = await eventually(begun)
    assert answer is not None and answer.version == 2


async def test_a_stalled_postgresql_costs_no_more_than_the_callers_deadline(
    stub: memory_pb2_grpc.MemoryServiceStub, proxy: FaultProxy
) -> None:
    await stub.GetUserProfile(memory_pb2.GetUserProfileRequest(), timeout=20)
    proxy.stall()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetUserProfile(memory_pb2.GetUserProfileRequest(), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    proxy.resume()

    async def served() -> bool:
        try:
            await stub.GetUserProfile(memory_pb2.GetUserProfileRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(served, timeout=20)
