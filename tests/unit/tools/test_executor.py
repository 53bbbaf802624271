"""The executor without a network: deadlines, and what a tool is told of its call."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit.context import Identity
from peregrine.kit.errors import InvalidArgument
from peregrine.tools.admission import Admission
from peregrine.tools.definition import Arguments, Definition, Effect, ToolContext, tool
from peregrine.tools.executor import Call, Executor
from peregrine.tools.metrics import ToolMetrics
from peregrine.tools.registry import Registry

WHO = Identity("acme", "ada")


class Bench:
    """An executor whose tools are those that `add` is given."""

    def __init__(self) -> None:
        self.admission = Admission(slots=2, max_wait=2.0, max_queue=10)
        metrics = ToolMetrics(registry=CollectorRegistry(), pool="p", slots=2)
        self.registry = Registry(admission=self.admission, metrics=metrics)
        self.executor = Executor(
            registry=self.registry, admission=self.admission, record_metric=_ignore
        )

    def add(self, definition: Definition) -> None:
        self.registry.register(definition)


def _ignore(name: str, value: float, labels: Mapping[str, str], /) -> None: ...


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.executor.close()


async def test_a_tool_knows_whom_it_works_for_and_until_when(bench: Bench) -> None:
    seen: list[ToolContext] = []

    @tool(name="look", description="x", parameters={}, effect=Effect.READ, timeout=5)
    async def look(arguments: Arguments, context: ToolContext) -> str:
        seen.append(context)
        return "ok"

    bench.add(look)
    call = Call(tool="look", call_id="c", agent_id="a", idempotency_key="k", timeout=3)
    assert (await bench.executor.execute(call, WHO, remaining=60)).text == "ok"
    (context,) = seen
    assert (context.tenant, context.user) == ("acme", "ada")
    assert (context.call_id, context.agent_id, context.idempotency_key) == ("c", "a", "k")
    assert 2 < context.remaining() <= 3
    assert not context.given_up


async def test_the_answer_comes_before_the_caller_stops_waiting(bench: Bench) -> None:
    @tool(name="hang", description="x", parameters={}, effect=Effect.READ)
    async def hang(arguments: Arguments, context: ToolContext) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench.add(hang)
    outcome = await bench.executor.execute(Call(tool="hang"), WHO, remaining=0.1)
    assert outcome.reason == "TOOL_TIMEOUT"
    assert "0.08 s" in outcome.text


async def test_a_call_without_time_left_is_not_started(bench: Bench) -> None:
    started = []

    @tool(name="note", description="x", parameters={}, effect=Effect.WRITE)
    def note(arguments: Arguments, context: ToolContext) -> str:
        started.append(context)
        return "ok"

    bench.add(note)
    call = Call(tool="note", idempotency_key="k")
    outcome = await bench.executor.execute(call, WHO, remaining=0.01)
    assert (outcome.reason, outcome.in_doubt, started) == ("TOOL_TIMEOUT", False, [])
    assert bench.admission.in_flight == 0


async def test_a_blocking_tool_is_told_that_nobody_waits_any_more(bench: Bench) -> None:
    started, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @tool(name="poll", description="x", parameters={}, effect=Effect.READ)
    def poll(arguments: Arguments, context: ToolContext) -> str:
        loop.call_soon_threadsafe(started.set)
        limit = time.monotonic() + 10
        while not context.given_up and time.monotonic() < limit:
            time.sleep(0.001)
        loop.call_soon_threadsafe(ended.set)
        return "late"

    bench.add(poll)
    running = asyncio.create_task(bench.executor.execute(Call(tool="poll"), WHO))
    async with asyncio.timeout(5):
        await started.wait()
        running.cancel()
        await ended.wait()
    assert bench.admission.in_flight == 0


async def test_a_change_needs_its_key(bench: Bench) -> None:
    @tool(name="change", description="x", parameters={}, effect=Effect.WRITE)
    async def change(arguments: Arguments, context: ToolContext) -> str:
        return "ok"

    bench.add(change)
    with pytest.raises(InvalidArgument):
        bench.executor.check(Call(tool="change"), WHO)
    bench.executor.check(Call(tool="change", idempotency_key="k"), WHO)
    bench.executor.check(Call(tool="unknown"), WHO)


def test_a_name_is_taken_once() -> None:
    bench = Bench()

    @tool(name="one", description="x", parameters={}, effect=Effect.READ)
    async def one(arguments: Arguments, context: ToolContext) -> str:
        return "ok"

    bench.add(one)
    with pytest.raises(ValueError, match="twice"):
        bench.add(one)
    assert [each.definition.name for each in bench.registry.select(limit=5)] == ["one"]
    assert bench.registry.select(limit=5, after="one") == []
