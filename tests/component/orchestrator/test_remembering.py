"""The end of a run and the memory of it: which waits for which, and a memory that is away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.memory.v1 import memory_pb2_grpc as memory_rpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.proxy import FaultProxy, fault_proxy
from tests.support.stack import Stack

AWAY = "PEREGRINE_MEMORY_TARGET"


async def remembered(peregrine: Stack, conversation_id: str) -> list[str]:
    """Who said what in a conversation, as the memory service tells it."""
    async with grpc.aio.insecure_channel(peregrine.environ[AWAY]) as channel:
        answer = await memory_rpc.MemoryServiceStub(channel).ListMessages(
            memory.ListMessagesRequest(conversation_id=conversation_id),
            timeout=10,
            metadata=peregrine.on_behalf_of(),
        )
    return [
        f"{common.Role.Name(each.message.role)}: {each.message.content[0].text}"
        for each in answer.messages
    ]


def conversation(events: list[pb.RunEvent]) -> str:
    return str(events[0].run_started.conversation_id)


class HeldUp:
    """No message can be written. `looks_on` is a connection beside."""

    def __init__(self, looks_on: asyncpg.Connection) -> None:
        self._looks_on = looks_on

    async def waited_for(self) -> bool:
        """Whether somebody wants to write one."""
        return bool(
            await self._looks_on.fetchval(
                "SELECT count(*) FROM pg_locks"
                " WHERE relation = 'memory.messages'::regclass AND NOT granted"
            )
        )

    async def nobody_idles(self) -> bool:
        """Whether no transaction is open in which nothing is done, but the test's own."""
        idle = await self._looks_on.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'"
        )
        return int(idle) == 1


@contextlib.asynccontextmanager
async def memory_held_up(dsn: str) -> AsyncIterator[HeldUp]:
    async with contextlib.AsyncExitStack() as both:
        holds, looks_on = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        both.push_async_callback(holds.close)
        both.push_async_callback(looks_on.close)
        async with holds.transaction():
            await holds.execute("LOCK TABLE memory.messages IN EXCLUSIVE MODE")
            yield HeldUp(looks_on)


def slowly(peregrine: Stack, message: str) -> None:
    """An answer that comes to a stop before its last words, for the test to do something."""
    peregrine.simulator.state.scripts.add(
        {
            "match": {"contains": message},
            "turns": [
                {
                    "blocks": [{"type": "text", "text": "one two three"}],
                    "stalls": [{"after_tokens": 1, "seconds": 0.5}],
                }
            ],
        }
    )


async def begun(peregrine: Stack, message: str) -> tuple[pb.Run, asyncio.Task[list[pb.RunEvent]]]:
    """A run whose answer has begun, and what will have been seen of it."""
    slowly(peregrine, message)
    run = await peregrine.start(message)
    speaking = asyncio.Event()

    async def watch() -> list[pb.RunEvent]:
        events: list[pb.RunEvent] = []
        request = pb.WatchRunRequest(run_id=run.run_id)
        async for response in peregrine.first.runs.WatchRun(request, timeout=30):
            events += response.events
            if "text_delta" in stack.kinds(events):
                speaking.set()
        return events

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(speaking.wait(), 10)
    return run, watching


async def state(peregrine: Stack, run: pb.Run) -> int:
    got = await peregrine.first.runs.GetRun(pb.GetRunRequest(run_id=run.run_id), timeout=10)
    return int(got.run.state)


async def test_who_hears_of_the_end_finds_the_turn_remembered(peregrine: Stack) -> None:
    for number in range(20):
        events = await peregrine.chat(f"What is {number} + 1?")
        told = await remembered(peregrine, conversation(events))
        assert len(told) > 1 and told[0] == f"ROLE_USER: What is {number} + 1?"
        assert told[-1] == f"ROLE_ASSISTANT: {events[-1].run_finished.text}"


async def test_a_run_waits_for_a_slow_memory_and_not_in_a_transaction(
    peregrine: Stack, migrated_dsn: str
) -> None:
    run, watching = await begun(peregrine, "slow")
    async with memory_held_up(migrated_dsn) as held_up:
        await eventually(held_up.waited_for)
        await eventually(held_up.nobody_idles)
        assert not watching.done()
        assert await state(peregrine, run) == pb.RUN_STATE_RUNNING
    events = await asyncio.wait_for(watching, 20)
    stack.check_log(events)
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED and not finished.degradations
    assert any(
        span.kind == pb.SPAN_KIND_PERSIST and span.name == "memory"
        for span in finished.waterfall.spans
    ), "what it waited for is shown"
    assert finished.waterfall.critical_path_ms == pytest.approx(
        finished.waterfall.wall_ms, rel=0.02, abs=2
    )
    told = await remembered(peregrine, conversation(events))
    assert told == ["ROLE_USER: slow", "ROLE_ASSISTANT: one two three"]


async def test_a_run_that_waits_for_memory_can_be_cancelled(
    peregrine: Stack, migrated_dsn: str
) -> None:
    run, watching = await begun(peregrine, "cancelled")
    async with memory_held_up(migrated_dsn) as held_up:
        await eventually(held_up.waited_for)
        await peregrine.first.runs.CancelRun(pb.CancelRunRequest(run_id=run.run_id), timeout=10)
        events = await asyncio.wait_for(watching, 10)
    stack.check_log(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_CANCELLED


@pytest.fixture
async def apart(migrated_dsn: str, redis_url: str) -> AsyncIterator[tuple[Stack, FaultProxy]]:
    """An orchestrator whose way to the memory service can be cut."""
    async with (
        stack.neighbours(dsn=migrated_dsn, redis_url=redis_url) as found,
        fault_proxy(found.environ[AWAY]) as proxy,
    ):
        async with stack.orchestrator_in_process(found, found.environ | {AWAY: proxy.address}):
            await found.apply(stack.agent())
            yield found, proxy


async def test_a_memory_that_comes_back_gets_the_turn(apart: tuple[Stack, FaultProxy]) -> None:
    peregrine, proxy = apart
    run, watching = await begun(peregrine, "away")
    proxy.cut()

    async def answered() -> bool:
        (record,) = peregrine.simulator.state.records
        return record.ended == "completed"

    await eventually(answered)
    assert await state(peregrine, run) == pb.RUN_STATE_RUNNING
    proxy.resume()
    events = await asyncio.wait_for(watching, 20)
    stack.check_log(events)
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED and not finished.degradations
    told = await remembered(peregrine, conversation(events))
    assert told == ["ROLE_USER: away", "ROLE_ASSISTANT: one two three"]


async def test_an_answer_is_not_lost_for_a_memory_that_stays_away(
    apart: tuple[Stack, FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peregrine.orchestrator.remembering._REMEMBER_SECONDS", 0.5)
    peregrine, proxy = apart
    _, watching = await begun(peregrine, "gone")
    proxy.cut()
    events = await asyncio.wait_for(watching, 20)
    proxy.resume()
    stack.check_log(events)
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED and finished.text == "one two three"
    assert [(each.what, each.reason) for each in finished.degradations] == [
        ("memory", "MEMORY_UNAVAILABLE")
    ]
    assert await remembered(peregrine, conversation(events)) == ["ROLE_USER: gone"]
