"""Everything with identity on: all services in this process, three users of two tenants."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc.aio
import httpx
import pytest
from google.protobuf import message_factory

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.identity.v1 import identity_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2
from peregrine.api.memory.v1 import memory_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.cache import main as cache
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from peregrine.kit.settings import load
from tests.contract.completeness import NOT_BUILT_YET
from tests.support import stack
from tests.support.edge import edge
from tests.support.stack import Stack

ADA, BOB, EVE = Identity("acme", "ada"), Identity("acme", "bob"), Identity("umbrella", "ada")
USERS = {"ada": ADA, "bob": BOB, "eve": EVE}
_APIS = {
    "orchestrator": (orchestrator_pb2, identity_pb2),
    "memory": (memory_pb2,),
    "llm_gateway": (llm_gateway_pb2,),
    "tools": (tools_pb2,),
    "cache": (cache_pb2,),
}
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One RPC of the contract, called by its descriptor with an empty request."""

    path: str
    descriptor: Any
    channel: grpc.aio.Channel

    async def __call__(self, metadata: Metadata = (), **fields: Any) -> Any:
        """What it answers: the message, or the first of a stream. Raises the typed error."""
        kind = message_factory.GetMessageClass(self.descriptor.input_type)
        answer = message_factory.GetMessageClass(self.descriptor.output_type)
        request = kind(**fields)
        make = (
            self.channel.unary_stream
            if self.descriptor.server_streaming
            else self.channel.unary_unary
        )
        call = make(self.path, kind.SerializeToString, answer.FromString)(
            request, metadata=metadata, timeout=10
        )
        try:
            if self.descriptor.server_streaming:
                return await call.read()
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()


@dataclass(frozen=True, kw_only=True)
class Whole:
    stack: Stack
    methods: dict[str, Method]
    keys: dict[str, str]
    http: httpx.AsyncClient
    dsn: str

    def of(self, name: str) -> Method:
        """The method of that `Service/Name`."""
        return next(each for path, each in self.methods.items() if path.endswith(f".{name}"))


@pytest.fixture
async def whole(migrated_dsn: str, redis_url: str) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as open_:
        running = await open_.enter_async_context(
            stack.in_process(dsn=migrated_dsn, redis_url=redis_url, identity=True)
        )
        environ = running.environ | {"PEREGRINE_CACHE_REDIS_URL": redis_url}
        server = await open_.enter_async_context(cache.build(load(cache.Settings, environ)))
        await open_.enter_async_context(server)
        await server.serving()
        targets = {
            "orchestrator": running.first.address,
            "cache": server.address,
            **{
                name: running.environ[f"PEREGRINE_{name.upper()}_TARGET"]
                for name in ("memory", "llm_gateway", "tools")
            },
        }
        methods = {}
        for name, files in _APIS.items():
            channel = await open_.enter_async_context(grpc.aio.insecure_channel(targets[name]))
            for file in files:
                for service in file.DESCRIPTOR.services_by_name.values():
                    rpcs = {f"{service.name}/{each.name}" for each in service.methods}
                    if rpcs <= NOT_BUILT_YET:
                        continue  # nobody serves any of it
                    for each in service.methods:
                        path = f"/{service.full_name}/{each.name}"
                        methods[path] = Method(path=path, descriptor=each, channel=channel)
        door = await open_.enter_async_context(
            edge(
                orchestrator=running.first.address,
                memory=targets["memory"],
                PEREGRINE_AUTH_REQUIRED="true",
            )
        )
        http = await open_.enter_async_context(httpx.AsyncClient(base_url=door.url, timeout=20))
        yield Whole(
            stack=running,
            methods=methods,
            keys={name: await stack.new_key(migrated_dsn, who) for name, who in USERS.items()},
            http=http,
            dsn=migrated_dsn,
        )
