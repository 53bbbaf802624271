"""Runs over real gRPC: started, read, read on after the connection was lost, cancelled."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import Identity, Patience, PeregrineClient, Transcript, collect
from peregrine.kit.errors import NotFound, ResourceExhausted, Unavailable
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import (
    CONVERSATION,
    FakeOrchestrator,
    Gate,
    fake_orchestrator,
    finished,
    started,
    step,
    text,
    tool_finished,
    tool_started,
)
from tests.support.proxy import fault_proxy

HASTY = Patience(attempts=4, first_delay=0.01, max_delay=0.05)
WORDS = [f"w{number} " for number in range(40)]


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    async with fake_orchestrator() as fake:
        yield fake


@pytest.fixture
async def client(fake: FakeOrchestrator) -> AsyncIterator[PeregrineClient]:
    async with PeregrineClient(fake.target, patience=HASTY) as client:
        yield client


def speech() -> list[pb.RunEvent]:
    return [started(), step(1), *(text(1, word) for word in WORDS), finished("".join(WORDS))]


async def test_chat_yields_the_events_of_a_new_run_in_order(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = [
        started(),
        step(1),
        tool_started("a", "calculator"),
        tool_finished("a", "calculator", "425"),
        step(2),
        text(2, "425"),
        finished("425"),
    ]
    events = [event async for event in client.chat("assistant", "What is 25 * 17?")]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert events[0].run_started.run_id == fake.run.run.run_id
    assert fake.run.input.message == "What is 25 * 17?"
    assert fake.run.input.request_id


async def test_chat_passes_on_what_it_is_given(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    events = client.chat(
        "assistant",
        "hello",
        CONVERSATION,
        "mine",
        timeout=12.5,
        disconnect_policy=pb.DISCONNECT_POLICY_CANCEL,
        optimizations=pb.Optimizations(eager_tools=False),
        allow_unremembered=True,
        labels={"team": "a"},
    )
    await collect(events)
    expected = pb.RunInput(
        agent="assistant",
        message="hello",
        conversation_id=CONVERSATION,
        request_id="mine",
        disconnect_policy=pb.DISCONNECT_POLICY_CANCEL,
        optimizations=pb.Optimizations(eager_tools=False),
        allow_unremembered=True,
        labels={"team": "a"},
    )
    expected.timeout.FromMilliseconds(12_500)
    assert fake.run.input == expected


async def test_a_cut_stream_is_read_on_with_every_event_once(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = speech()
    fake.cuts = [5, 1, 7, 2, 11, 3]
    events = [event async for event in client.chat("assistant", "hello")]
    assert [event.sequence for event in events] == list(range(1, len(WORDS) + 4))
    assert fake.calls == ["Chat"] + ["WatchRun"] * 6
    assert len(fake.runs) == 1


async def test_a_chat_that_is_cut_before_its_first_event_is_asked_again_and_starts_one_run(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.cuts = [0, 0]
    transcript = await collect(client.chat("assistant", "hello"))
    assert transcript.text == "hello"
    assert fake.calls == ["Chat", "Chat", "Chat"]
    assert len(fake.runs) == 1


async def test_a_connection_that_is_reset_under_way_is_read_on(fake: FakeOrchestrator) -> None:
    gate = Gate()
    fake.script = [*speech()[:20], gate, *speech()[20:]]
    transcript = Transcript()
    async with (
        fault_proxy(fake.target) as proxy,
        PeregrineClient(proxy.address, patience=Patience(first_delay=0.01)) as client,
        aclosing(client.chat("assistant", "hello")) as events,
    ):
        async for event in events:
            transcript.add(event)
            if event.sequence == 20:
                proxy.reset()
                gate.set()
    assert transcript.text == transcript.step_text(1) == "".join(WORDS)
    assert fake.calls[0] == "Chat"
    assert "WatchRun" in fake.calls


async def test_progress_renews_the_patience(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = speech()
    fake.cuts = [1] * len(WORDS)
    assert (await collect(client.chat("assistant", "hello"))).text == "".join(WORDS)


async def test_a_service_that_stays_away_is_given_up(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = speech()
    fake.cuts = [3] + [0] * 10
    seen = []
    with pytest.raises(Unavailable) as caught:
        async for event in client.chat("assistant", "hello"):
            seen.append(event.sequence)  # noqa: PERF401 - it raises
    assert seen == [1, 2, 3]
    assert caught.value.reason == "DRAINING"
    assert len(fake.calls) == HASTY.attempts


async def test_where_nobody_listens_chat_fails_soon() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with PeregrineClient(f"127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(Unavailable):
                async with asyncio.timeout(10):
                    await collect(client.chat("assistant", "hello"))


async def test_other_errors_are_raised_at_once_with_their_reason(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.refuse = ResourceExhausted("too many runs", reason="OVERLOADED", retry_after=2.0)
    with pytest.raises(ResourceExhausted) as caught:
        await collect(client.chat("assistant", "hello"))
    assert (caught.value.reason, caught.value.retry_after) == ("OVERLOADED", 2.0)
    assert fake.calls == ["Chat"]


async def test_watch_reads_exactly_the_rest_from_any_position(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = speech()
    run = await client.start_run("assistant", "hello")
    whole = [event async for event in client.watch_run(run.run_id)]
    for position in range(0, len(whole), 7):
        rest = [event async for event in client.watch_run(run.run_id, position)]
        assert rest == whole[position:]


async def test_nothing_comes_after_the_end(fake: FakeOrchestrator, client: PeregrineClient) -> None:
    await collect(client.chat("assistant", "hello"))
    for position in (4, 1000):
        assert [event async for event in client.watch_run(fake.run.run.run_id, position)] == []
    assert fake.calls.count("WatchRun") == 2


async def test_a_reader_is_told_when_what_it_saw_was_lost(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    gate = Gate()
    fake.script = [started(), step(1), text(1, "kept "), text(1, "lost"), gate]
    fake.cuts = [4]
    transcript = Transcript()
    async with aclosing(client.chat("assistant", "hello")) as events:
        async for event in events:
            transcript.add(event)
            if event.sequence == 4 and event.epoch == 1:
                await fake.run.truncate(3, text(1, "found"), finished("kept found"))
    assert transcript.truncations == 1
    assert transcript.text == transcript.step_text(1) == "kept found"


async def test_a_reader_that_saw_less_than_was_lost_reads_on_without_noticing(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = [started(), step(1), text(1, "a"), text(1, "lost"), text(1, "lost"), Gate()]
    run = await client.start_run("assistant", "hello")
    await eventually(lambda: len(fake.run.events) == 5)
    await fake.run.truncate(3, text(1, "b"), finished("ab"))
    rest = [event async for event in client.watch_run(run.run_id, 2, 1)]
    assert [event.sequence for event in rest] == [3, 4, 5, 6]


async def test_watching_an_unknown_run_is_not_found(client: PeregrineClient) -> None:
    with pytest.raises(NotFound) as caught:
        await collect(client.watch_run("nope"))
    assert caught.value.reason == "RUN_NOT_FOUND"


async def test_leaving_early_ends_the_stream_and_not_the_run(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    gate = Gate()
    fake.script = [started(), step(1), gate, finished("later")]
    async with aclosing(client.chat("assistant", "hello")) as events:
        async for event in events:
            if event.HasField("step_started"):
                break
    await eventually(lambda: client._pool.in_flight == (0, 0))
    gate.set()
    assert (await collect(client.watch_run(fake.run.run.run_id))).text == "later"


async def test_cancel_ends_the_run_as_cancelled(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = [started(), step(1), Gate()]
    transcript = Transcript()
    async for event in client.chat("assistant", "hello"):
        transcript.add(event)
        if event.HasField("step_started"):
            assert await client.cancel_run(transcript.run_id) == pb.RUN_STATE_RUNNING
    assert transcript.state == pb.RUN_STATE_CANCELLED
    assert (await client.get_run(transcript.run_id)).state == pb.RUN_STATE_CANCELLED


async def test_runs_are_listed_over_all_pages_and_up_to_a_limit(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    fake.script = [started(), finished("")]
    for number in range(205):
        await client.start_run("odd" if number % 2 else "even", "hello")
    assert len([run async for run in client.list_runs()]) == 205
    assert fake.calls.count("ListRuns") == 2
    assert len([run async for run in client.list_runs(limit=3)]) == 3
    assert {run.agent async for run in client.list_runs(agent="odd")} == {"odd"}


async def test_calls_are_made_for_the_given_identity(fake: FakeOrchestrator) -> None:
    async with PeregrineClient(fake.target, identity=Identity("acme", "ann")) as client:
        await collect(client.chat("assistant", "hello"))
        [_ async for _ in client.list_runs()]
    assert fake.users == ["ann", "ann"]


async def test_a_client_that_is_not_open_says_so() -> None:
    client = PeregrineClient()
    with pytest.raises(RuntimeError, match="async with"):
        await client.warm()


async def test_warm_connects_or_says_who_is_away(
    fake: FakeOrchestrator, client: PeregrineClient
) -> None:
    await client.warm()
    async with PeregrineClient("127.0.0.1:1") as nobody:
        with pytest.raises(Unavailable) as caught:
            await nobody.warm(timeout=0.2)
    assert caught.value.reason == "PEER_UNREACHABLE"
