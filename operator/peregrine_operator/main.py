"""The operator's process: settings and wiring, the only place that builds things."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from peregrine.client import CacheClient, PeregrineClient, ToolsClient
from peregrine.kit import context, identity, serve, telemetry
from peregrine.kit.context import Identity
from peregrine.kit.settings import Problem, Secret, load, setting
from peregrine_operator import handlers, liveness
from peregrine_operator.kubernetes import Kubernetes, Login
from peregrine_operator.leading import Term
from peregrine_operator.lease import Lease
from peregrine_operator.liveness import Health
from peregrine_operator.metrics import Metrics
from peregrine_operator.policies import Policies
from peregrine_operator.pools import Pools
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.reconciling import Reconciler
from peregrine_operator.services import Services
from peregrine_operator.view import View
from peregrine_operator.work import Work
from peregrine_operator.workloads import Workloads
from peregrine_operator.writing import Writer

_CALL_SECONDS = 10.0
_BEAT_SECONDS = 1.0
_AGAIN_SECONDS = 5.0
_RELEASE_SECONDS = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator reads. The API server comes from the service account, else KUBECONFIG."""

    orchestrator_target: str = setting(
        "PEREGRINE_ORCHESTRATOR_TARGET",
        default="127.0.0.1:50051",
        help="gRPC target of the orchestrator, which keeps agents",
    )
    tools_target: str = setting(
        "PEREGRINE_TOOLS_TARGET",
        default="127.0.0.1:50053",
        help="gRPC target of the tools service, which keeps tools",
    )
    cache_target: str = setting(
        "PEREGRINE_CACHE_TARGET",
        default="127.0.0.1:50054",
        help="gRPC target of the cache service, which keeps policies",
    )
    prometheus_url: str = setting(
        "PEREGRINE_PROMETHEUS_URL",
        default="",
        help="URL of the Prometheus that scrapes the services; without it nothing is scaled or "
        "tuned, and the resources say so",
    )
    namespaces: tuple[str, ...] = setting(
        "PEREGRINE_OPERATOR_NAMESPACES",
        default=(),
        help="namespaces whose resources are looked after, separated by commas; none means all",
    )
    tenant: str = setting(
        "PEREGRINE_OPERATOR_TENANT",
        default="default",
        help="tenant that the agents and tools of the cluster belong to",
    )
    lease_namespace: str = setting(
        "PEREGRINE_OPERATOR_LEASE_NAMESPACE",
        default="",
        help="namespace of the Lease that says which operator works; by default the pod's own",
    )
    lease_name: str = setting(
        "PEREGRINE_OPERATOR_LEASE_NAME",
        default="peregrine-operator",
        help="name of the Lease; operators for different namespaces need different ones",
    )
    resync_seconds: float = setting(
        "PEREGRINE_OPERATOR_RESYNC_SECONDS",
        default=30.0,
        minimum=1,
        maximum=60,
        help="seconds between two full looks at all resources and services, beside the watches",
    )
    workers: int = setting(
        "PEREGRINE_OPERATOR_WORKERS",
        default=8,
        minimum=1,
        maximum=64,
        help="resources that are looked at at the same time",
    )
    health_host: str = setting(
        "PEREGRINE_OPERATOR_HEALTH_HOST",
        default="127.0.0.1",
        help="address on which /healthz and /readyz are answered; 0.0.0.0 inside a cluster",
    )
    health_port: int = setting(
        "PEREGRINE_OPERATOR_HEALTH_PORT",
        default=8081,
        minimum=0,
        maximum=65535,
        help="port of /healthz and /readyz; 0 picks a free one",
    )
    metrics_port: int = setting(
        "PEREGRINE_METRICS_PORT",
        default=0,
        minimum=0,
        maximum=65535,
        help="port of the Prometheus endpoint; 0 means none is opened",
    )
    metrics_host: str = setting(
        "PEREGRINE_METRICS_HOST",
        default="127.0.0.1",
        help="address that the Prometheus endpoint binds; 0.0.0.0 inside a cluster",
    )
    auth_required: bool = setting(
        "PEREGRINE_AUTH_REQUIRED",
        default=True,
        help="prove to the services who calls; off only where they do not ask",
    )
    identity_keys: Secret | None = setting(
        "PEREGRINE_SECRET_IDENTITY_KEYS",
        reference="IDENTITY_KEYS",
        default=None,
        help="keys that identities are signed with between services, one line kid:base64 (32 bytes "
        "or more) each: the first signs, all verify; needed unless PEREGRINE_AUTH_REQUIRED is off. "
        "A file /etc/peregrine/secrets/IDENTITY_KEYS comes first",
    )

    def problems(self) -> Sequence[Problem]:
        if not self.auth_required or self.identity_keys is not None:
            return ()
        remedy = "set it, or create /etc/peregrine/secrets/IDENTITY_KEYS, as the services have it"
        return (Problem("PEREGRINE_SECRET_IDENTITY_KEYS", "is not set", remedy),)


class Operator:
    """The process from its first breath to its last; `kit.serve.run` drives it.

    `acting` gives the context in which all work is done: on whose behalf services are called.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        kubernetes: Kubernetes,
        login: Callable[[], Login],
        services: Services,
        cache: CacheClient,
        prometheus: Prometheus,
        acting: Callable[[], AbstractContextManager[None]],
        metrics: Metrics,
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._kubernetes = kubernetes
        self._login = login
        self._services = services
        self._cache = cache
        self._prometheus = prometheus
        self._acting = acting
        self._metrics = metrics
        self._registry = registry
        self._me = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._open = contextlib.AsyncExitStack()
        self._life: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self.health = Health()
        self.port = 0

    async def start(self) -> int:
        """Answers probes and begins to work; returns the port of the probes.

        Raises:
          StartRefused: a port cannot be bound.
        """
        settings = self._settings
        self._open.enter_context(
            telemetry.start_metrics_server(
                settings.metrics_port, self._registry, host=settings.metrics_host
            )
        )
        self.port = await self._open.enter_async_context(
            liveness.serving(self.health, host=settings.health_host, port=settings.health_port)
        )
        self._beat = asyncio.create_task(self._turn(), name="beat")
        self._life = asyncio.create_task(self._live(), name="operator")
        log.info("started", me=self._me, probes=f"{settings.health_host}:{self.port}")
        return self.port

    async def serving(self) -> None:
        """Ends only with the operator's own failure."""
        if self._life is not None:
            await asyncio.shield(self._life)

    async def stop(self) -> None:
        """Ends the work under way and lets go of the lease."""
        for task in (self._life, self._beat):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._open.aclose()
        log.info("stopped")

    async def _turn(self) -> None:
        while True:
            self.health.turn()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _live(self) -> None:
        settings = self._settings
        lease = Lease(
            kubernetes=self._kubernetes,
            namespace=settings.lease_namespace or self._kubernetes.namespace,
            name=settings.lease_name,
            me=self._me,
        )
        self.health.lease_unread_for = lambda: time.monotonic() - lease.beat
        with self._acting():
            while True:
                self.health.started = True
                await lease.acquire()
                try:
                    await self._lead(lease)
                finally:
                    self.health.lead(False)
                    self._metrics.leading.set(0)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RELEASE_SECONDS):
                            await lease.release()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _lead(self, lease: Lease) -> None:
        """Until the lease is lost, or the work broke."""
        self.health.lead(True)
        self._metrics.leading.set(1)
        working = asyncio.create_task(self._term().run(), name="term")
        keeping = asyncio.create_task(lease.keep(), name="lease")
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, keeping):
                task.cancel()
            ended = await asyncio.gather(working, keeping, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                self._metrics.failures.inc()
                log.error("term_broke", error=type(error).__name__, exc_info=error)

    def _term(self) -> Term:
        settings, view, work = self._settings, View(), Work()
        writer = Writer(
            kubernetes=self._kubernetes, view=view, metrics=self._metrics, instance=self._me
        )
        pools = Pools(
            view=view,
            workloads=Workloads(
                kubernetes=self._kubernetes,
                port=_port(settings.tools_target),
                clock=time.monotonic,
            ),
            prometheus=self._prometheus,
            writer=writer,
            metrics=self._metrics,
            turned=lambda: self.health.turn("pools"),
        )
        policies = Policies(
            view=view,
            cache=self._cache,
            prometheus=self._prometheus,
            writer=writer,
            metrics=self._metrics,
            turned=lambda: self.health.turn("policies"),
        )
        reconciler = Reconciler(
            view=view,
            work=work,
            services=self._services,
            writer=writer,
            metrics=self._metrics,
        )
        return Term(
            kubernetes=self._kubernetes,
            login=self._login,
            services=self._services,
            view=view,
            work=work,
            reconciler=reconciler,
            background=(writer.post_events, pools.run, policies.run),
            health=self.health,
            metrics=self._metrics,
            namespaces=settings.namespaces,
            resync=settings.resync_seconds,
            workers=settings.workers,
        )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    login: Callable[[], Login] = handlers.login,
) -> AsyncIterator[Operator]:
    """Opens everything, yields the operator (not started), closes everything."""
    registry = registry or CollectorRegistry()
    metrics = Metrics(registry)
    acting = _acting(settings)
    async with contextlib.AsyncExitStack() as stack:
        orchestrator = PeregrineClient(
            settings.orchestrator_target, connections=1, timeout=_CALL_SECONDS
        )
        tools = ToolsClient(settings.tools_target, connections=1, timeout=_CALL_SECONDS)
        cache = CacheClient(settings.cache_target, connections=1, timeout=_CALL_SECONDS)
        for client in (orchestrator, tools, cache):
            await stack.enter_async_context(client)
        kubernetes = await stack.enter_async_context(Kubernetes(login=login, metrics=metrics))
        prometheus = await stack.enter_async_context(Prometheus(settings.prometheus_url))
        yield Operator(
            settings=settings,
            kubernetes=kubernetes,
            login=login,
            services=Services(orchestrator=orchestrator, registry=tools),
            cache=cache,
            prometheus=prometheus,
            acting=acting,
            metrics=metrics,
            registry=registry,
        )


def _port(target: str) -> int:
    """Of a gRPC target; workers answer on the same one, each at its own address."""
    port = target.rpartition(":")[2]
    return int(port) if port.isdecimal() else 50053


def _acting(settings: Settings) -> Callable[[], AbstractContextManager[None]]:
    me = Identity(settings.tenant, "operator")
    if not settings.auth_required or settings.identity_keys is None:
        return lambda: context.with_identity(me)
    signer = identity.Signer(identity.keys(settings.identity_keys))
    return lambda: signer.acting_as(me, {"admin"})


@asynccontextmanager
async def _process(environ: Mapping[str, str]) -> AsyncIterator[Operator]:
    registry = telemetry.new_registry()
    async with build(load(Settings, environ), registry=registry) as operator:
        yield operator


def run(environ: Mapping[str, str]) -> int:
    """The whole process; returns its exit code."""
    return serve.run(_process, name="operator", environ=environ)
