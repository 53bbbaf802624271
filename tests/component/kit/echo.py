"""A tiny service for the tests of serving and calling: what it is told decides how it behaves.

Written in the shape of a generated module (`add_…_to_server`, `…Stub`), so that the kit is used
here as services use it. Messages are `StringValue`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from peregrine.kit import serve
from peregrine.kit.settings import InnerSettings

SERVICE = "peregrine.test.EchoService"
SAY = f"/{SERVICE}/Say"
GET = f"/{SERVICE}/Get"
COUNT = f"/{SERVICE}/Count"


class EchoServicer:
    """`say` and `get` answer unary calls, `count` streams; each test hands in its own."""

    def __init__(
        self,
        say: Callable[[str, Any], Awaitable[str]] | None = None,
        count: Callable[[str, Any], AsyncIterator[str]] | None = None,
    ) -> None:
        self._say = say
        self._count = count

    async def Say(self, request: StringValue, context: Any) -> StringValue:
        if self._say is None:
            return request
        return StringValue(value=await self._say(request.value, context))

    async def Get(self, request: StringValue, context: Any) -> StringValue:
        return await self.Say(request, context)

    async def Count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        if self._count is None:
            for number in range(int(request.value)):
                yield StringValue(value=str(number))
            return
        async for value in self._count(request.value, context):
            yield StringValue(value=value)

    def NotBuilt(self, request: StringValue, context: Any) -> StringValue:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        raise NotImplementedError("Method not implemented!")


def add_echo(servicer: EchoServicer, server: Any) -> None:
    def unary(behavior: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            behavior, StringValue.FromString, StringValue.SerializeToString
        )

    handlers = {
        "Say": unary(servicer.Say),
        "Get": unary(servicer.Get),
        "NotBuilt": unary(servicer.NotBuilt),
        "Count": grpc.unary_stream_rpc_method_handler(
            servicer.Count, StringValue.FromString, StringValue.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        def unary(method: str) -> Any:
            return channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
                _registered_method=True,
            )

        self.Say = unary("Say")
        self.Get = unary("Get")
        self.NotBuilt = unary("NotBuilt")
        self.Count = channel.unary_stream(
            COUNT,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
            _registered_method=True,
        )


@asynccontextmanager
async def echo_server(
    servicer: EchoServicer | None = None, *, settings: InnerSettings | None = None, **options: Any
) -> AsyncIterator[serve.Server]:
    """A served `servicer`, SERVING; its address is `server.address`."""
    server = serve.Server(
        name="echo",
        settings=settings or InnerSettings(auth_required=False, drain_seconds=2.0),
        servicers=[(add_echo, servicer or EchoServicer(), SERVICE)],
        **options,
    )
    await server.start()
    try:
        await server.serving()
        yield server
    finally:
        await server.stop()


async def forever(*_: Any) -> Any:
    await asyncio.Event().wait()
