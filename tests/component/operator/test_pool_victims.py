"""Who goes when a pool shrinks: what runs on each is asked of real workers, over gRPC."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from peregrine.client import ToolsClient
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.settings import Secret
from peregrine.tools import main
from peregrine_operator import asking, victims
from tests.component.operator.conftest import pool
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.looks import Looks, load
from tests.support import tools_module
from tests.support.eventually import eventually
from tests.support.kubernetes import ApiServer

LOCAL = "127.0.0.1"


@pytest.fixture
async def workers(
    migrated_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[int]]:
    """The ports of three."""
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(tmp_path / "executions"))
    settings = main.Settings(
        auth_required=False,
        listen=f"{LOCAL}:0",
        postgres_dsn=Secret(migrated_dsn),
        postgres_pool_size=2,
        modules=("tests.support.tools_module",),
    )
    async with contextlib.AsyncExitStack() as stack:
        ports = []
        for _ in range(3):
            built = main.build(settings, metrics_registry=CollectorRegistry())
            server = await stack.enter_async_context(built)
            await stack.enter_async_context(server)
            await server.serving()
            ports.append(int(server.address.rpartition(":")[2]))
        with context.with_identity(Identity("default", "operator")):
            yield ports


@contextlib.asynccontextmanager
async def busy(port: int, calls: int) -> AsyncIterator[None]:
    """A worker with so many calls that do not end."""
    async with ToolsClient(f"{LOCAL}:{port}", timeout=120) as client:
        ask = client.execute_tool
        running = [asyncio.create_task(ask("sleep", b'{"seconds":100}')) for _ in range(calls)]

        async def started() -> bool:
            return (await client.get_execution_stats()).in_flight == calls

        try:
            await eventually(started)
            yield
        finally:
            for call in running:
                call.cancel()
            await asyncio.gather(*running, return_exceptions=True)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port at which somebody listens and never says a word."""

    with socket.create_server((LOCAL, 0), backlog=256) as listening:
        # The system takes the connections; nobody ever comes for them.
        yield listening.getsockname()[1]


async def test_workers_say_what_runs_on_them(workers: list[int]) -> None:
    targets = {str(place): f"{LOCAL}:{port}" for place, port in enumerate(workers)}
    async with busy(workers[1], 2):
        assert await asking.inflight(targets) == {"0": 0, "1": 2, "2": 0}


async def test_who_does_not_answer_keeps_nobody_waiting(workers: list[int]) -> None:
    with silent() as port:
        targets = {f"silent {number}": f"{LOCAL}:{port}" for number in range(70)}
        targets |= {"nobody": f"{LOCAL}:1", "well": f"{LOCAL}:{workers[0]}"}
        async with asyncio.timeout(30):
            # More than are asked at once, and those who would answer among the first.
            found = await asking.inflight(dict(reversed(targets.items())), seconds=6.0)
        assert found == {"well": 0}


async def test_the_idle_goes_and_the_busy_and_the_silent_stay(
    api: ApiServer, looks: Looks, metrics: FakePrometheus, workers: list[int]
) -> None:
    api.deployment("tools", replicas=5)
    load(metrics, rate=1.0, workers=5)
    patched = _patches(api)
    with silent() as port:
        for name in list(api.pods()):
            del api.objects["v1/pods", "one", name]
        for name, at in (
            ("busy", workers[0]),
            ("idle", workers[1]),
            ("busier", workers[2]),
            ("silent", port),
        ):
            api.pod(name, of="tools", port=at)
        waiting = [{"type": "Ready", "status": "False"}]
        api.pod("starting", of="tools", conditions=waiting)
        await api.apply(pool(mode="Direct", concurrency=1, maxReplicas=5))
        async with busy(workers[0], 1), busy(workers[2], 2):
            # To the size of five minutes ago, one a minute: not ready, then idle.
            for _ in range(100):
                await looks.look()
                if len(api.pods()) == 3:
                    break
    assert set(api.pods()) == {"busy", "busier", "silent"}
    costs = [(pod, cost) for pod, cost in patched if cost is not None]
    assert [pod for pod, cost in costs if cost == victims.VICTIM] == ["starting", "idle"]
    assert {pod for pod, cost in costs if cost > 0} == {"busy", "busier", "silent"}
    # Nobody is told twice, and a cost comes before the scale that it is for.
    assert len(costs) == len({*costs}) == 5


async def test_survivors_lose_their_costs_once_the_pool_is_quiet(
    api: ApiServer, looks: Looks, metrics: FakePrometheus, workers: list[int]
) -> None:
    api.deployment("tools", replicas=3)
    for name, port in zip(list(api.pods()), workers, strict=True):
        api.pod(name, of="tools", port=port)
    load(metrics, rate=1.0, workers=3)
    await api.apply(pool(mode="Direct", concurrency=4))
    async with busy(workers[0], 1):
        for _ in range(100):
            await looks.look()
            if len(api.pods()) == 2:
                break
    assert len(api.pods()) == 2
    marked = _costs(api)
    assert marked["tools-0"] > 0
    # Somebody else has a word to say about one of them, and keeps it.
    api.pods()["tools-0"]["metadata"]["annotations"][victims.ANNOTATION] = "5"
    load(metrics, rate=1.0, workers=2)
    await looks.looks(30)
    assert _costs(api) == {"tools-0": 5}
    assert not any(victims.OURS in _annotations(raw) for raw in api.pods().values())


async def test_a_cost_that_may_not_be_written_is_no_reason_not_to_scale(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=4)
    load(metrics, rate=1.0, workers=4)
    api.refusing_pods = True
    await api.apply(pool(mode="Direct"))
    for _ in range(100):
        await looks.look()
        if looks.replicas[-1] < 4:
            break
    assert looks.replicas[-1] == 3
    assert _costs(api) == {}


def _annotations(raw: dict[str, Any]) -> dict[str, str]:
    return raw["metadata"].get("annotations") or {}


def _costs(api: ApiServer) -> dict[str, int]:
    return {
        name: int(_annotations(raw)[victims.ANNOTATION])
        for name, raw in api.pods().items()
        if victims.ANNOTATION in _annotations(raw)
    }


def _patches(api: ApiServer) -> list[tuple[str, int | None]]:
    """Filled with what is written about pods: name, and cost if there is one."""
    found: list[tuple[str, int | None]] = []

    def note(name: str, body: dict[str, Any]) -> None:
        cost = body["metadata"]["annotations"].get(victims.ANNOTATION)
        found.append((name, None if cost is None else int(cost)))

    api.pod_written = note
    return found
