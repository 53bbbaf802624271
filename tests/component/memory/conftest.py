"""A memory service in this process, on a real PostgreSQL, spoken to over gRPC."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest

from peregrine.api.memory.v1 import memory_pb2_grpc
from peregrine.kit.context import Identity
from peregrine.kit.postgres import Database
from peregrine.kit.settings import Secret
from peregrine.memory import main
from tests.support.identity import KEYS_TEXT, signed


@dataclass(frozen=True)
class As:
    """The calls of one user: `await caller.BeginTurn(request)`."""

    stub: Any
    identity: Identity

    def __getattr__(self, method: str) -> Any:
        async def call(request: Any) -> Any:
            return await getattr(self.stub, method)(
                request, metadata=signed(self.identity), timeout=20
            )

        return call


@pytest.fixture
async def address(migrated_dsn: str) -> AsyncIterator[str]:
    settings = main.Settings(
        listen="127.0.0.1:0",
        identity_keys=Secret(KEYS_TEXT),
        postgres_dsn=Secret(migrated_dsn),
    )
    async with main.build(settings) as server, server:
        await server.serving()
        yield server.address


@pytest.fixture
async def stub(address: str) -> AsyncIterator[memory_pb2_grpc.MemoryServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield memory_pb2_grpc.MemoryServiceStub(channel)


@pytest.fixture
def ada(stub: memory_pb2_grpc.MemoryServiceStub) -> As:
    return As(stub, Identity("acme", "ada"))


@pytest.fixture
def bob(stub: memory_pb2_grpc.MemoryServiceStub) -> As:
    return As(stub, Identity("acme", "bob"))


@pytest.fixture
def other_ada(stub: memory_pb2_grpc.MemoryServiceStub) -> As:
    """A user of the same name, of another tenant."""
    return As(stub, Identity("umbrella", "ada"))


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(migrated_dsn, size=2) as database:
        yield database
