"""`peregrine chat` and `peregrine watch`, as a person and as a program use them."""

import asyncio

import pytest
import typer

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli import chat, session
from peregrine.client import Patience, PeregrineClient
from tests.component.cli.program import Program
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import (
    CONVERSATION,
    FakeOrchestrator,
    Gate,
    finished,
    span,
    started,
    step,
    text,
    tool_finished,
    tool_started,
)

QUESTION = "What is 25 * 17?"
WATERFALL = pb.Waterfall(
    wall_ms=10,
    critical_path_ms=10,
    spans=[
        span(pb.SPAN_KIND_DECODE, "claude-sonnet-5-5", 0, 10, 10),
        span(pb.SPAN_KIND_TOOL, "calculator", 2, 3, 0),
    ],
)


@pytest.fixture
def answer(fake: FakeOrchestrator) -> None:
    fake.script = [
        started(),
        step(1),
        tool_started("a", "calculator", '{"expression":"25 * 17"}'),
        tool_finished("a", "calculator", "425", ms=0.4),
        step(2),
        text(2, "It is "),
        text(2, "425."),
        finished("It is 425.", waterfall=WATERFALL, steps=2),
    ]


@pytest.mark.usefixtures("answer")
async def test_chat_shows_tools_text_and_waterfall(peregrine: Program) -> None:
    ended = await peregrine("chat", QUESTION)
    assert (ended.code, ended.err) == (0, "")
    assert "simulated model" in ended.out
    assert "✓ calculator 25 * 17 0.40 ms" in ended.out
    assert "\nIt is 425.\n" in ended.out
    assert "time  10.0 ms, critical path 10.0 ms" in ended.out
    assert "░" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.usefixtures("answer")
async def test_the_waterfall_can_be_left_out(peregrine: Program) -> None:
    ended = await peregrine("chat", QUESTION, "--no-waterfall")
    assert "It is 425." in ended.out
    assert "critical path" not in ended.out


@pytest.mark.usefixtures("answer")
async def test_json_is_one_event_a_line(peregrine: Program, fake: FakeOrchestrator) -> None:
    ended = await peregrine("chat", QUESTION, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert [line["sequence"] for line in ended.lines] == list(range(1, 9))
    assert ended.lines[0]["run_started"]["run_id"] == fake.run.run.run_id
    assert ended.lines[-1]["run_finished"]["text"] == "It is 425."


async def test_what_is_said_goes_where_it_is_said_to(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    await peregrine("chat", QUESTION, "--agent", "support", "--conversation", CONVERSATION)
    given = fake.run.input
    assert (given.agent, given.message) == ("support", QUESTION)
    assert given.conversation_id == CONVERSATION


async def test_the_message_may_come_from_standard_input(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    ended = await peregrine("chat", stdin="line one\nline two\n")
    assert ended.code == 0
    assert fake.run.input.message == "line one\nline two\n"


async def test_text_is_shown_while_the_run_goes_on(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    gate = Gate()
    fake.script = [started(), step(1), text(1, "first\n"), gate, text(1, "last"), finished("")]
    async with peregrine.started("chat", QUESTION) as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while await process.stdout.readline() != b"first\n":
                pass
        assert fake.run.run.state == pb.RUN_STATE_RUNNING
        gate.set()
        out, _ = await process.communicate()
    assert out.startswith(b"last\n")


@pytest.mark.parametrize("state", [pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED])
async def test_a_run_that_did_not_succeed_is_exit_code_1(
    peregrine: Program, fake: FakeOrchestrator, state: pb.RunState
) -> None:
    error = common_pb2.Error(reason="MODEL_UNAVAILABLE", message="no model answers")
    fake.script = [started(), finished("", state=state, error=error)]
    ended = await peregrine("chat", QUESTION)
    assert ended.code == 1
    assert ("failed: no model answers (MODEL_UNAVAILABLE)" in ended.out) == (
        state == pb.RUN_STATE_FAILED
    )


async def test_an_unknown_agent_is_said_in_one_line(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    fake.agents["assistant"] = pb.Agent(name="assistant")
    ended = await peregrine("chat", QUESTION, "--agent", "nobody")
    assert ended.code == 1
    assert ended.err == "error: there is no agent 'nobody' (AGENT_NOT_FOUND)\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", ""),
        ("chat", "  "),
        ("chat", "hi", "--nonsense"),
        ("chat", "hi", "there"),
        ("talk",),
    ],
)
async def test_what_is_not_understood_is_exit_code_2(
    peregrine: Program, arguments: tuple[str, ...]
) -> None:
    assert (await peregrine(*arguments)).code == 2


@pytest.mark.parametrize(
    "arguments", [("chat", "hi"), ("chat", "hi", "--json"), ("runs", "list"), ("watch", "r")]
)
async def test_a_service_that_is_not_there_is_exit_code_3_and_one_line(
    arguments: tuple[str, ...],
) -> None:
    ended = await Program()(*arguments)
    assert ended.code == 3
    assert ended.out == ""
    assert ended.err == (
        "error: cannot reach the orchestrator service at 127.0.0.1:1; "
        "is Peregrine running? Start it with: make run\n"
    )


async def test_the_program_ends_with_the_exit_code_and_no_traceback() -> None:
    async with Program().started("chat", "hi") as process:
        out, err = await process.communicate()
    assert process.returncode == 3
    assert (out, err.count(b"\n")) == (b"", 1)


async def test_a_service_that_goes_away_for_good_says_how_to_read_on(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "PATIENCE", Patience(attempts=3, first_delay=0.01))
    monkeypatch.setenv("PEREGRINE_ORCHESTRATOR_TARGET", fake.target)
    fake.script = [started(), step(1), text(1, "half"), Gate()]
    fake.cuts = [3, 0, 0]
    async with PeregrineClient(fake.target) as client:
        run = await client.start_run("assistant", QUESTION)
    fake.silent = True
    with pytest.raises(typer.Exit) as caught:
        await chat.watch(run.run_id, after=0, as_json=False, waterfall=True)
    said = capsys.readouterr()
    assert caught.value.exit_code == 3
    assert said.out.count("the connection was lost; reading on") == 1
    assert f"Read on with: peregrine watch {run.run_id} --after 3" in said.err


async def test_ctrl_c_cancels_the_run_and_says_so(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    fake.script = [started(), step(1), text(1, "half"), Gate()]
    async with peregrine.on_terminal("chat", QUESTION) as session:
        await eventually(lambda: "half" in session.seen)
        session.interrupt()
        assert await session.ended() == 1
        await eventually(lambda: "cancelled" in session.seen)
    assert "cancelling the run" in session.seen
    assert fake.run.run.state == pb.RUN_STATE_CANCELLED
    assert "CancelRun" in fake.calls


async def test_a_second_ctrl_c_leaves_at_once(peregrine: Program, fake: FakeOrchestrator) -> None:
    fake.script = [Gate(), Gate()]
    async with peregrine.on_terminal("chat", QUESTION) as session:
        await eventually(lambda: fake.runs)
        session.interrupt()
        await eventually(lambda: "cancelling the run" in session.seen)
        session.interrupt()
        assert await session.ended() == 130
        await eventually(lambda: "left before the run was known" in session.seen)


@pytest.mark.usefixtures("answer")
async def test_at_the_prompt_a_conversation_goes_on(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    async with peregrine.on_terminal("chat") as session:
        await eventually(lambda: "you ▸" in session.seen)
        session.type("first\n")
        await eventually(lambda: session.seen.count("you ▸") == 2)
        session.type("second\n")
        await eventually(lambda: session.seen.count("you ▸") == 3)
        session.type("\x04")
        assert await session.ended() == 0
    first, second = (run.input for run in fake.runs.values())
    assert (first.message, first.conversation_id) == ("first", "")
    assert (second.message, second.conversation_id) == ("second", CONVERSATION)


@pytest.mark.usefixtures("answer")
async def test_watch_shows_a_run_from_a_position_on(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    await peregrine("chat", QUESTION)
    run_id = fake.run.run.run_id
    whole = (await peregrine("watch", run_id, "--json")).lines
    rest = await peregrine("watch", run_id, "--after", "5", "--json")
    assert rest.code == 0
    assert rest.lines == whole[5:]
    shown = await peregrine("watch", run_id, "--after", "5")
    assert "It is 425." in shown.out


async def test_watching_from_behind_the_end_says_that_nothing_comes(
    peregrine: Program, fake: FakeOrchestrator
) -> None:
    await peregrine("chat", QUESTION)
    ended = await peregrine("watch", fake.run.run.run_id, "--after", "99")
    assert (ended.code, ended.err) == (0, "")
    assert "nothing comes after event 99: the run succeeded" in ended.out


async def test_watching_an_unknown_run_is_exit_code_1(peregrine: Program) -> None:
    ended = await peregrine("watch", "nope")
    assert (ended.code, ended.err) == (1, "error: there is no run nope (RUN_NOT_FOUND)\n")
