"""A tool worker, wired: settings, database, documents, registry, executor, server."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter

from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.client import CacheClient
from peregrine.kit import serve, telemetry
from peregrine.kit.background import Failures
from peregrine.kit.errors import StartRefused
from peregrine.kit.postgres import Database, check_schema
from peregrine.kit.settings import InnerSettings, PostgresSettings, load, setting
from peregrine.tools import documents, lending, registry
from peregrine.tools.admission import Admission
from peregrine.tools.applied import AppliedTools
from peregrine.tools.builtin.calculator import calculator
from peregrine.tools.builtin.clock import current_time
from peregrine.tools.builtin.knowledge_search import knowledge_search
from peregrine.tools.definition import Definition
from peregrine.tools.executor import Executor
from peregrine.tools.knowledge import Knowledge
from peregrine.tools.ledger import Ledger
from peregrine.tools.metrics import ToolMetrics
from peregrine.tools.reach import ReachSettings, reaching
from peregrine.tools.registry import Registry
from peregrine.tools.results import Results
from peregrine.tools.service import ToolService

SERVICE = tools_pb2.DESCRIPTOR.services_by_name["ToolService"].full_name
MIGRATIONS = "peregrine.tools.migrations"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings(ReachSettings, InnerSettings, PostgresSettings):
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50053",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    pool: str = setting(
        "PEREGRINE_TOOLS_POOL",
        default="default",
        help="name of the pool (one Deployment) this worker is of; a label of its metrics",
    )
    concurrency: int = setting(
        "PEREGRINE_TOOLS_CONCURRENCY",
        default=10,
        minimum=1,
        maximum=1_000,
        help="tool executions that this worker runs at the same time",
    )
    max_wait_seconds: float = setting(
        "PEREGRINE_TOOLS_MAX_WAIT_SECONDS",
        default=2.0,
        minimum=0,
        help="seconds that a call waits for a place at most; one that would wait longer is refused "
        "at once, so that another worker can take it",
    )
    aging_seconds: float = setting(
        "PEREGRINE_TOOLS_AGING_SECONDS",
        default=0.5,
        minimum=0,
        help="seconds after which a waiting call is overdue: while there is one, every fourth "
        "start is the oldest call's, whatever its priority",
    )
    max_queue: int = setting(
        "PEREGRINE_TOOLS_MAX_QUEUE",
        default=1_000,
        minimum=0,
        help="calls that wait for a place at most, however short they are",
    )
    modules: tuple[str, ...] = setting(
        "PEREGRINE_TOOLS_MODULES",
        default=(),
        help="Python modules, comma separated, whose functions under @tool are tools here, too",
    )
    cache_target: str | None = setting(
        "PEREGRINE_CACHE_TARGET",
        default=None,
        help="gRPC target of the cache service, where results are kept; without it every call of "
        "a tool is executed",
    )
    near_cache_bytes: int = setting(
        "PEREGRINE_TOOLS_NEAR_CACHE_BYTES",
        default=32 * 1024 * 1024,
        minimum=0,
        help="bytes of results that this worker keeps in its own memory, each for 5 seconds at "
        "most; 0 keeps none",
    )
    knowledge_dir: Path = setting(
        "PEREGRINE_KNOWLEDGE_DIR",
        default=Path("examples/docs"),
        help="folder of Markdown documents that knowledge_search looks in",
    )
    knowledge_tenant: str = setting(
        "PEREGRINE_KNOWLEDGE_TENANT",
        default="local",
        help="tenant that the documents of the folder belong to",
    )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    metrics_registry: CollectorRegistry | None = None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[serve.Server]:
    """The worker with its database open and its documents stored; not started yet.

    Args:
      environ: where secrets that tools name are found, besides files.

    Raises:
      StartRefused: the role is above row-level security, the schema is behind, or a tool is broken.
      Unavailable: PostgreSQL cannot be reached.
    """
    metrics_registry = metrics_registry or telemetry.new_registry()
    failures = Failures(metrics_registry)
    metrics = ToolMetrics(registry=metrics_registry, pool=settings.pool, slots=settings.concurrency)
    database = await Database.connect(
        settings.postgres_dsn,
        size=settings.postgres_pool_size,
        registry=metrics_registry,
        application_name="peregrine-tools",
    )
    async with (
        database,
        reaching(
            settings,
            secret=lambda name: lending.lend(name, environ),
            failures=failures.of("mcp_servers"),
            registry=metrics_registry,
        ) as reach,
        _kept_results(
            settings, metrics, metrics_registry, failures=failures.of("results")
        ) as results,
    ):
        await check_schema(database, "tools", MIGRATIONS)
        knowledge = Knowledge(database)
        await _fill(knowledge, settings)
        admission = Admission(
            slots=settings.concurrency,
            max_wait=settings.max_wait_seconds,
            max_queue=settings.max_queue,
            aging=settings.aging_seconds,
        )
        tools = Registry(admission=admission, metrics=metrics)
        builtin = (
            calculator,
            current_time(lambda: datetime.now(UTC)),
            knowledge_search(knowledge.search, version=knowledge.version),
            *reach.builtin,
        )
        found = registry.find(settings.modules, entry_points(group=registry.ENTRY_POINTS))
        _register(tools, [*(("", each) for each in builtin), *found])
        ledger = Ledger(database=database, failures=failures.of("ledger"))
        executor = Executor(
            registry=tools,
            admission=admission,
            record_metric=telemetry.CustomMetrics(metrics_registry).record,
            results=results,
            ledger=ledger,
        )

        applied = AppliedTools(
            database=database,
            on_change=reach.follow,
            on_listing=reach.servers.learned,
            on_wanted=reach.servers.wanted,
            failures=failures.of("applied_tools"),
        )
        reach.serve(tools, applied.keep_listing)
        await applied.follow_once()
        background = [
            asyncio.create_task(applied.follow(), name="tools-applied"),
            asyncio.create_task(ledger.run(), name="tools-ledger"),
        ]

        async def drain() -> None:
            metrics.drain()

        try:
            yield serve.Server(
                name="tools",
                settings=settings,
                servicers=[
                    (
                        tools_pb2_grpc.add_ToolServiceServicer_to_server,
                        ToolService(
                            registry=tools,
                            executor=executor,
                            admission=admission,
                            applied=applied,
                            check_tool=reach.check,
                            servers=reach.servers,
                        ),
                        SERVICE,
                    )
                ],
                drain=drain,
                registry=metrics_registry,
            )
        finally:
            await executor.close()
            for task in background:
                task.cancel()
            await asyncio.wait(background)


def run(environ: Mapping[str, str]) -> int:
    """The process. Returns its exit code."""

    def built(environ: Mapping[str, str]) -> AbstractAsyncContextManager[serve.Server]:
        return build(load(Settings, environ), environ=environ)

    return serve.run(built, name="tools", environ=environ)


@asynccontextmanager
async def _kept_results(
    settings: Settings, metrics: ToolMetrics, registry: CollectorRegistry, *, failures: Counter
) -> AsyncIterator[Results | None]:
    if settings.cache_target is None:
        yield None
        return
    async with CacheClient(
        settings.cache_target, near_bytes=settings.near_cache_bytes, registry=registry
    ) as cache:
        metrics.near_cache(lambda: cache.near_bytes, lambda: cache.near_evictions)
        results = Results(cache=cache, on_unstored=metrics.unstored, failures=failures)
        try:
            yield results
        finally:
            await results.close()


def _register(tools: Registry, found: list[tuple[str, Definition]]) -> None:
    for origin, definition in found:
        try:
            tools.register(definition, origin=origin)
        except ValueError as error:
            raise StartRefused(str(error)) from None


async def _fill(knowledge: Knowledge, settings: Settings) -> None:
    folder = settings.knowledge_dir
    if not folder.is_dir():
        # Not fatal: a worker in a cluster may have its documents filled by another.
        log.warning("knowledge_folder_missing", folder=str(folder))
        return
    found = await asyncio.to_thread(documents.read_folder, folder)
    filled = await knowledge.fill(settings.knowledge_tenant, found)
    log.info(
        "knowledge_filled",
        folder=str(folder),
        stored=filled.stored,
        deleted=filled.deleted,
        unchanged=filled.unchanged,
    )
