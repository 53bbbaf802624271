"""The edge, wired: settings, clients of the orchestrator and of memory, routes, server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from peregrine.client import Exchange, IdentityClient, MemoryClient, PeregrineClient
from peregrine.edge import answers, border, service
from peregrine.edge.connection import cutting
from peregrine.edge.metrics import EdgeMetrics
from peregrine.edge.server import EdgeServer
from peregrine.edge.streaming import Streams
from peregrine.kit import serve, telemetry
from peregrine.kit.settings import ServeSettings, load, setting

_CONNECT_SECONDS = 5.0
_CONNECTIONS = 4
_EXCHANGE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Settings(ServeSettings):
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:8080",
        help="host:port that the HTTP server binds; port 0 picks a free one",
    )
    orchestrator_target: str = setting(
        "PEREGRINE_ORCHESTRATOR_TARGET",
        default="127.0.0.1:50051",
        help="gRPC target of the orchestrator",
    )
    memory_target: str = setting(
        "PEREGRINE_MEMORY_TARGET",
        default="127.0.0.1:50055",
        help="gRPC target of memory",
    )
    max_streams: int = setting(
        "PEREGRINE_EDGE_MAX_STREAMS",
        default=2_000,
        minimum=1,
        help="readers of events at the same time; more are refused with a delay to retry after",
    )
    blocked_seconds: float = setting(
        "PEREGRINE_EDGE_BLOCKED_SECONDS",
        default=10.0,
        minimum=0.1,
        help="seconds that a connection may take nothing of what waits for it; then it is cut, and "
        "its reader resumes with the last id",
    )
    hosts: tuple[str, ...] = setting(
        "PEREGRINE_EDGE_HOSTS",
        default=(),
        help="host names, comma separated, that requests may be addressed to; empty: any, but on "
        "loopback only the names of loopback",
    )


@asynccontextmanager
async def build(
    settings: Settings, *, metrics_registry: CollectorRegistry | None = None
) -> AsyncIterator[EdgeServer]:
    """The edge with its connections opening; not started yet."""
    metrics_registry = metrics_registry or telemetry.new_registry()
    metrics = EdgeMetrics(metrics_registry)
    streams = Streams(limit=settings.max_streams, metrics=metrics)
    async with (
        PeregrineClient(settings.orchestrator_target, connections=_CONNECTIONS) as orchestrator,
        MemoryClient(settings.memory_target) as memory,
        IdentityClient(settings.orchestrator_target, timeout=_EXCHANGE_SECONDS) as identities,
        aclosing(Exchange(identities)) as exchange,
    ):

        async def backends() -> None:
            await asyncio.gather(orchestrator.warm(_CONNECT_SECONDS), memory.warm(_CONNECT_SECONDS))

        files = answers.page_files()
        app = service.create_app(
            service.EdgeService(orchestrator=orchestrator, memory=memory, streams=streams),
            files=files,
            ready=lambda: server.ready,
        )
        server = EdgeServer(
            app=border.Border(
                app,
                hosts=border.allowed_hosts(settings.listen, settings.hosts),
                exchange=exchange if settings.auth_required else None,
                open_paths=service.OPEN_PATHS | files.keys(),
                metrics=metrics,
            ),
            settings=settings,
            streams=streams,
            backends=backends,
            protocol=cutting(settings.blocked_seconds, metrics.cut.inc),
            registry=metrics_registry,
        )
        yield server


def run(environ: Mapping[str, str]) -> int:
    """The process. Returns its exit code."""

    def built(environ: Mapping[str, str]) -> AbstractAsyncContextManager[EdgeServer]:
        return build(load(Settings, environ))

    return serve.run(built, name="edge", environ=environ)
