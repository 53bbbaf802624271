"""The operator in the test's own process, between an emulated API server and faked services."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2_grpc
from peregrine.client import CacheClient
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.settings import load
from peregrine_operator import main
from peregrine_operator.kubernetes import Kubernetes
from peregrine_operator.main import Operator, Settings
from peregrine_operator.metrics import Metrics
from peregrine_operator.prometheus import Prometheus
from tests.component.operator.fake_prometheus import FakePrometheus, prometheus
from tests.component.operator.fakes import Agents, Caches, Tools, serving_all
from tests.component.operator.looks import Looks
from tests.component.operator.minutes import Minutes
from tests.support.fake_orchestrator import serving
from tests.support.kubernetes import ApiServer, api_server

Start: TypeAlias = Callable[..., AbstractAsyncContextManager[Operator]]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with api_server() as server:
        yield server


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
def tools() -> Tools:
    return Tools()


@pytest.fixture
def caches() -> Caches:
    return Caches()


@pytest.fixture
async def metrics() -> AsyncIterator[FakePrometheus]:
    async with prometheus() as fake:
        yield fake


@pytest.fixture
async def kubernetes(api: ApiServer) -> AsyncIterator[Kubernetes]:
    async with Kubernetes(login=api.login, metrics=Metrics(CollectorRegistry())) as opened:
        yield opened


@pytest.fixture
async def looks(
    api: ApiServer, kubernetes: Kubernetes, metrics: FakePrometheus
) -> AsyncIterator[Looks]:
    async with Prometheus(metrics.url, timeout=30.0) as asked:
        yield Looks(api, kubernetes, asked)


@pytest.fixture
async def minutes(
    api: ApiServer, caches: Caches, metrics: FakePrometheus
) -> AsyncIterator[Minutes]:
    add = cache_pb2_grpc.add_CacheServiceServicer_to_server
    async with (
        serving([(add, caches)]) as address,
        Kubernetes(login=api.login, metrics=Metrics(CollectorRegistry())) as kubernetes,
        CacheClient(address) as cache,
        Prometheus(metrics.url, timeout=30.0) as asked,
    ):
        with context.with_identity(Identity("default", "operator")):
            yield Minutes(api, kubernetes, cache, asked)


@pytest.fixture
async def start(
    api: ApiServer, agents: Agents, tools: Tools, caches: Caches
) -> AsyncIterator[Start]:
    """`async with start() as operator:`; more settings as keyword arguments."""
    async with serving_all(agents, tools, caches) as (orchestrator, registry, cache):

        @asynccontextmanager
        async def started(**more: str) -> AsyncIterator[Operator]:
            environ = {
                "PEREGRINE_ORCHESTRATOR_TARGET": orchestrator,
                "PEREGRINE_TOOLS_TARGET": registry,
                "PEREGRINE_CACHE_TARGET": cache,
                "PEREGRINE_AUTH_REQUIRED": "false",
                "PEREGRINE_OPERATOR_HEALTH_PORT": "0",
                "PEREGRINE_OPERATOR_RESYNC_SECONDS": "1",
                **more,
            }
            async with main.build(load(Settings, environ), login=api.login) as operator:
                await operator.start()
                try:
                    yield operator
                finally:
                    await operator.stop()

        yield started


def pool(name: str = "tools", namespace: str = "one", **spec: Any) -> dict[str, Any]:
    """One that scales the Deployment of its own name."""
    given = {"deployment": name, "minReplicas": 2, "maxReplicas": 20, "concurrency": 4, **spec}
    return _resource("ToolPool", name, namespace, given)


def policy(**spec: Any) -> dict[str, Any]:
    return _resource("CachePolicy", "lookup", "one", {"namespace": "tool:lookup", **spec})


def agent(name: str = "helper", namespace: str = "one", **spec: Any) -> dict[str, Any]:
    return _resource("Agent", name, namespace, {"model": "m", **spec})


def tool(resource: str = "lookup", namespace: str = "one", **spec: Any) -> dict[str, Any]:
    given = {
        "description": "Looks things up.",
        "effect": "READ",
        "inputSchema": {"type": "object"},
        "http": {"url": "https://example.com/"},
        **spec,
    }
    return _resource("Tool", resource, namespace, given)


def _resource(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "peregrine.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
