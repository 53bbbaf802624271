"""The orchestrator's process: settings and wiring, the only place that builds things."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from peregrine.api.identity.v1 import identity_pb2, identity_pb2_grpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.kit import redis, serve
from peregrine.kit.background import Failures
from peregrine.kit.channel import ChannelPool
from peregrine.kit.eventlog import EventLog
from peregrine.kit.postgres import Database, check_schema
from peregrine.kit.settings import (
    PostgresSettings,
    RedisSettings,
    load,
    setting,
)
from peregrine.orchestrator import upstream
from peregrine.orchestrator.access import AccessSettings, access
from peregrine.orchestrator.agents import Agents
from peregrine.orchestrator.identity import IdentityServicer
from peregrine.orchestrator.keys import KeyStore
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.runs import Runs
from peregrine.orchestrator.service import AgentServicer, OrchestratorServicer
from peregrine.orchestrator.store import Store
from peregrine.orchestrator.upstream import Upstream

_WARM_SECONDS = 5.0
_SERVICES = pb.DESCRIPTOR.services_by_name


@dataclass(frozen=True, kw_only=True)
class Settings(AccessSettings, PostgresSettings, RedisSettings):
    """What the orchestrator reads."""

    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50051",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    llm_gateway_target: str = setting(
        "PEREGRINE_LLM_GATEWAY_TARGET",
        default="127.0.0.1:50052",
        help="gRPC target of the llm-gateway service",
    )
    tools_target: str = setting(
        "PEREGRINE_TOOLS_TARGET",
        default="127.0.0.1:50053",
        help="gRPC target of the tools service",
    )
    tools_pool: str = setting(
        "PEREGRINE_TOOLS_POOL",
        default="default",
        help="name of the pool behind that target, as its workers have it; a label of metrics",
    )
    memory_target: str = setting(
        "PEREGRINE_MEMORY_TARGET",
        default="127.0.0.1:50055",
        help="gRPC target of the memory service",
    )
    channels: int = setting(
        "PEREGRINE_CHANNELS",
        default=2,
        minimum=1,
        maximum=32,
        help="connections to each other service; one carries 100 and more calls at once",
    )
    max_live_runs: int = setting(
        "PEREGRINE_MAX_LIVE_RUNS",
        default=1000,
        minimum=1,
        help="runs at work in this process; further ones are refused with a delay to retry after",
    )
    handover_seconds: float = setting(
        "PEREGRINE_HANDOVER_SECONDS",
        default=5.0,
        minimum=0,
        help="seconds that runs get to end at a drain before they are handed over",
    )
    owner: str = setting(
        "PEREGRINE_OWNER",
        default="",
        help="name of this process in leases; by default host, process id and a random part",
    )


@asynccontextmanager
async def build(
    settings: Settings, *, registry: CollectorRegistry | None = None
) -> AsyncIterator[serve.Server]:
    """Opens everything, yields the server (not started), closes everything."""
    registry = registry or CollectorRegistry()
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.connect(
            settings.postgres_dsn,
            size=settings.postgres_pool_size,
            registry=registry,
            application_name="peregrine-orchestrator",
        )
        stack.push_async_callback(database.close)
        for component, package in (
            ("eventlog", "peregrine.kit.eventlog.migrations"),
            ("orchestrator", "peregrine.orchestrator.migrations"),
        ):
            await check_schema(database, component, package)
        client = redis.connect(settings.redis_url, max_connections=settings.redis_pool_size)
        stack.push_async_callback(redis.close, client)

        def pool(name: str, target: str, idempotent: frozenset[str] = frozenset()) -> ChannelPool:
            return ChannelPool(
                target,
                size=settings.channels,
                name=name,
                default_timeout=upstream.MEMORY_SECONDS,
                idempotent=idempotent,
            )

        pools = {
            "memory_pool": pool("memory", settings.memory_target, upstream.IDEMPOTENT_MEMORY),
            "llm_pool": pool("llm-gateway", settings.llm_gateway_target),
            "tools_pool": pool("tools", settings.tools_target, upstream.IDEMPOTENT_TOOLS),
        }
        for each in pools.values():
            await stack.enter_async_context(each)
        event_log = EventLog(
            owner=settings.owner or _owner(), db=database, redis=client, registry=registry
        )
        await event_log.start()
        stack.push_async_callback(event_log.close)
        metrics = Metrics(registry, tools_pool=settings.tools_pool)
        store = Store(database)
        neighbours = Upstream(**pools)
        agents = Agents(store, metrics, connect=partial(neighbours.offered, connect=True))
        entry = await stack.enter_async_context(
            access(
                settings,
                database=database,
                checked=metrics.credentials,
                unreadable=Failures(registry).of("jwks"),
            )
        )
        runs = Runs(
            store=store,
            event_log=event_log,
            agents=agents,
            upstream=neighbours,
            metrics=metrics,
            prove=entry.of_run,
            max_live=settings.max_live_runs,
            drain_seconds=settings.handover_seconds,
        )
        servicer = OrchestratorServicer(runs=runs, run_store=store, event_log=event_log)

        async def ready() -> None:
            await asyncio.gather(*(each.warm(_WARM_SECONDS) for each in pools.values()))
            runs.start_background()

        async def drain() -> None:
            await runs.drain()
            servicer.close_streams()

        # Also when the server never came to be drained: no task outlives what it works with.
        stack.push_async_callback(runs.drain)
        yield serve.Server(
            name="orchestrator",
            settings=settings,
            door=entry.door,
            servicers=[
                (
                    rpc.add_OrchestratorServiceServicer_to_server,
                    servicer,
                    _SERVICES["OrchestratorService"].full_name,
                ),
                (
                    rpc.add_AgentServiceServicer_to_server,
                    AgentServicer(agents),
                    _SERVICES["AgentService"].full_name,
                ),
                (
                    identity_pb2_grpc.add_IdentityServiceServicer_to_server,
                    IdentityServicer(keys=KeyStore(database), signer=entry.signer),
                    identity_pb2.DESCRIPTOR.services_by_name["IdentityService"].full_name,
                ),
            ],
            ready=ready,
            drain=drain,
            registry=registry,
        )


def _owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@asynccontextmanager
async def _process(environ: Mapping[str, str]) -> AsyncIterator[serve.Server]:
    async with build(load(Settings, environ)) as server:
        yield server


def run(environ: Mapping[str, str]) -> int:
    """The whole process; returns its exit code."""
    return serve.run(_process, name="orchestrator", environ=environ)
