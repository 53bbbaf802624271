"""Streams over a real socket: nothing is lost at their end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from peregrine.kit.errors import NotFound, from_rpc_error
from tests.component.kit.echo import EchoServicer, EchoStub, echo_server


async def test_a_reader_gets_every_large_message_and_the_status() -> None:
    async def large(count: str, _: Any) -> AsyncIterator[str]:
        for number in range(int(count)):
            yield f"{number} " + "x" * 300_000

    async with (
        echo_server(EchoServicer(count=large)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = EchoStub(channel).Count(StringValue(value="40"), timeout=30)
        got = [message.value.split()[0] async for message in call]
        assert got == [str(number) for number in range(40)]
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("count", [0, 1, 2, 30])
async def test_what_was_said_before_an_error_arrives_and_then_the_error(count: int) -> None:
    async def breaks(_: str, __: Any) -> AsyncIterator[str]:
        for number in range(count):
            yield str(number)
        raise NotFound("there is no more", reason="NO_MORE")

    async with (
        echo_server(EchoServicer(count=breaks)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        got: list[str] = []
        call = EchoStub(channel).Count(StringValue(value=""), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            while True:
                got.append((await call.read()).value)
    assert got == [str(number) for number in range(count)]
    assert from_rpc_error(raised.value).reason == "NO_MORE"


async def test_many_streams_at_once_keep_their_order() -> None:
    async with (
        echo_server() as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):

        async def read() -> list[int]:
            call = EchoStub(channel).Count(StringValue(value="200"), timeout=30)
            return [int(message.value) async for message in call]

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(read()) for _ in range(30)]
    assert all(each.result() == list(range(200)) for each in reading)
