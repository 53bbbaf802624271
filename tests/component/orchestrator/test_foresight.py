"""The first model call of a new conversation is made while the turn is still being written down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.memory.v1 import memory_pb2_grpc as memory_rpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.simulator.record import Record
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.stack import Stack


def requests(peregrine: Stack) -> list[Record]:
    return list(peregrine.simulator.state.records)


async def ended(peregrine: Stack) -> list[str | None]:
    """How each model call ended, once all have."""

    async def all_have() -> bool:
        return all(each.ended is not None for each in requests(peregrine))

    await eventually(all_have)
    return [each.ended for each in requests(peregrine)]


async def seen_here(peregrine: Stack) -> None:
    """From now on the orchestrator knows the user, and what it may ask for."""
    stack.check_log(await peregrine.chat("Hello."))
    await ended(peregrine)
    peregrine.simulator.state.records.clear()


def slowly(peregrine: Stack, *answers: str) -> None:
    """What the next model calls answer, after a time in which they can be ended."""
    turns = [
        {"blocks": [{"type": "text", "text": text}], "latency": {"first_token": 0.5}}
        for text in answers
    ]
    peregrine.simulator.state.scripts.add({"turns": turns, "pick": "sequence"})


@asynccontextmanager
async def nothing_written(dsn: str, table: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_the_model_is_asked_before_the_turn_is_written(
    peregrine: Stack, migrated_dsn: str
) -> None:
    await seen_here(peregrine)
    async with nothing_written(migrated_dsn, "memory.conversations"):
        chat = asyncio.create_task(peregrine.chat("What is 25 * 17?"))

        async def asked() -> bool:
            return bool(requests(peregrine))

        await eventually(asked)
    events = await chat
    stack.check_log(events)
    assert "425" in stack.text(events)
    finished = events[-1].run_finished
    assert finished.waterfall.critical_path_ms == pytest.approx(
        finished.waterfall.wall_ms, rel=0.02, abs=2
    )
    assert await ended(peregrine) == ["completed"] * finished.steps, "and nothing twice"


async def test_a_user_of_whom_other_things_are_known_now_gets_the_right_answer(
    peregrine: Stack,
) -> None:
    await seen_here(peregrine)
    async with grpc.aio.insecure_channel(peregrine.environ["PEREGRINE_MEMORY_TARGET"]) as channel:
        await memory_rpc.MemoryServiceStub(channel).PutUserProfile(
            memory.PutUserProfileRequest(data=common.Json(utf8=b'{"name":"Ada"}')),
            timeout=10,
            metadata=peregrine.on_behalf_of(),
        )
    slowly(peregrine, "a guess", "the answer")
    events = await peregrine.chat("Who am I?")
    stack.check_log(events)
    assert stack.text(events) == "the answer"
    assert await ended(peregrine) == ["client_closed", "completed"]
    guess, call = requests(peregrine)
    assert b"Ada" in call.body and b"Ada" not in guess.body


async def test_a_run_that_is_there_already_leaves_no_call_behind(peregrine: Stack) -> None:
    await seen_here(peregrine)
    run = await peregrine.start("What is 2 + 3?", request_id="once")
    events = await peregrine.watch(run.run_id)
    steps = events[-1].run_finished.steps
    assert await ended(peregrine) == ["completed"] * steps
    slowly(peregrine, "nobody waits for this")
    again = await peregrine.start("What is 2 + 3?", request_id="once")
    assert again.run_id == run.run_id
    # The model may not even have heard of the call when it was ended.
    assert set((await ended(peregrine))[steps:]) <= {"client_closed"}
    assert await peregrine.watch(run.run_id) == events


async def test_a_conversation_that_goes_on_is_read_first(peregrine: Stack) -> None:
    await seen_here(peregrine)
    first = await peregrine.chat("My name is Ada.")
    conversation = stack.of(first, "run_started")[0].conversation_id
    events = await peregrine.chat("What is my name?", conversation_id=conversation)
    assert "Ada" in stack.text(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    assert set(await ended(peregrine)) == {"completed"}
