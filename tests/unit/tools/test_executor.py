"""The executor without a network: deadlines, and what a tool is told of its call."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping

import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit import context as call_context
from peregrine.kit.context import Identity, RetryBudget
from peregrine.kit.errors import InvalidArgument
from peregrine.tools.admission import Admission
from peregrine.tools.calls import Call
from peregrine.tools.definition import (
    Arguments,
    Definition,
    Effect,
    OutcomeUnknown,
    ToolContext,
    ToolFailure,
    TransientFailure,
    tool,
)
from peregrine.tools.executor import Executor
from peregrine.tools.metrics import ToolMetrics
from peregrine.tools.registry import Registry

WHO = Identity("acme", "ada")


class Bench:
    """An executor whose tools are those that `add` is given."""

    def __init__(self) -> None:
        self.admission = Admission(slots=2, max_wait=2.0, max_queue=10)
        self.metrics = CollectorRegistry()
        metrics = ToolMetrics(registry=self.metrics, pool="p", slots=2)
        self.registry = Registry(admission=self.admission, metrics=metrics)
        self.executor = Executor(
            registry=self.registry, admission=self.admission, record_metric=_ignore
        )

    def add(self, definition: Definition) -> None:
        self.registry.register(definition)

    def metric(self, name: str, tool: str) -> float | None:
        labels = {"tool": tool, "pool": "p"}
        return self.metrics.get_sample_value(f"peregrine_tool_{name}", labels)


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
    assert re.search(r"0\.0[78]\d* s", outcome.text)


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
        if context.wait(10) and context.given_up:
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


def failing(*errors: Exception, effect: Effect = Effect.READ, retries: int = 0) -> Definition:
    """Raises these, one at each execution, and succeeds after the last."""
    left = list(errors)

    @tool(name="failing", description="x", parameters={}, effect=effect, retries=retries)
    async def fails(arguments: Arguments, context: ToolContext) -> str:
        if left:
            raise left.pop(0)
        return "ok"

    return fails


PASSING = [TransientFailure("away"), RuntimeError("bug"), OutcomeUnknown()]


@pytest.mark.parametrize("passing", PASSING, ids=lambda error: type(error).__name__)
async def test_what_may_pass_is_tried_again_as_often_as_declared(
    bench: Bench, passing: Exception
) -> None:
    bench.add(failing(passing, passing, retries=2))
    assert (await bench.executor.execute(Call(tool="failing"), WHO)).text == "ok"
    assert bench.metric("started_total", "failing") == 3
    assert bench.metric("inflight", "failing") == 0
    assert bench.admission.in_flight == 0


async def test_the_last_failure_is_the_answer(bench: Bench) -> None:
    bench.add(failing(*(TransientFailure(f"away {number}") for number in range(9)), retries=1))
    assert (await bench.executor.execute(Call(tool="failing"), WHO)).text == "away 1"


async def test_a_tool_that_says_no_is_not_asked_again(bench: Bench) -> None:
    bench.add(failing(ToolFailure("no"), retries=5))
    assert (await bench.executor.execute(Call(tool="failing"), WHO)).text == "no"
    assert bench.metric("started_total", "failing") == 1


async def test_a_change_is_not_tried_again_unless_it_may_be(bench: Bench) -> None:
    bench.add(failing(TransientFailure("away"), effect=Effect.WRITE, retries=5))
    call = Call(tool="failing", idempotency_key="k")
    assert (await bench.executor.execute(call, WHO)).text == "away"


async def test_tries_come_out_of_the_budget_of_the_run(bench: Bench) -> None:
    bench.add(failing(*(TransientFailure("away") for _ in range(9)), retries=5))
    budget = RetryBudget(1)
    with call_context.bind(retries=budget):
        await bench.executor.execute(Call(tool="failing"), WHO)
    assert bench.metric("started_total", "failing") == 2 and budget.remaining == 0


async def test_a_tool_that_keeps_timing_out_is_left_alone_and_then_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = True

    @tool(name="hang", description="x", parameters={}, effect=Effect.READ, timeout=0.01)
    async def hang(arguments: Arguments, context: ToolContext) -> str:
        if hangs:
            await asyncio.get_running_loop().create_future()
        return "ok"

    bench.add(hang)
    registered = bench.registry.get("hang")
    assert registered is not None
    now = 1_000.0
    registered.circuit._clock = lambda: now
    for _ in range(5):
        outcome = await bench.executor.execute(Call(tool="hang"), WHO)
        assert outcome.reason == "TOOL_TIMEOUT"
    outcome = await bench.executor.execute(Call(tool="hang"), WHO)
    assert outcome.reason == "TOOL_UNAVAILABLE"
    assert outcome.retry_after is not None and 1 <= outcome.retry_after <= 6
    assert bench.metric("circuit_open", "hang") == 1
    assert bench.metric("circuit_refused_total", "hang") == 1
    hangs = False
    now += 7
    assert (await bench.executor.execute(Call(tool="hang"), WHO)).text == "ok"
    assert bench.metric("circuit_open", "hang") == 0


async def test_a_caller_in_a_hurry_does_not_open_the_circuit(bench: Bench) -> None:
    @tool(name="hang", description="x", parameters={}, effect=Effect.READ, timeout=60)
    async def hang(arguments: Arguments, context: ToolContext) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    bench.add(hang)
    for _ in range(6):
        outcome = await bench.executor.execute(Call(tool="hang", timeout=0.001), WHO)
        assert outcome.reason == "TOOL_TIMEOUT"
    assert bench.metric("circuit_open", "hang") == 0
