"""A log folded into where the run stands."""

import itertools

import pytest

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.orchestrator import replay
from peregrine.orchestrator.replay import Replay


def fold(*payloads: dict[str, object]) -> Replay:
    counter = itertools.count(1)
    return replay.fold(
        pb.RunEvent(sequence=next(counter), **payload)  # type: ignore[arg-type]
        for payload in payloads
    )


def started(call_id: str, arguments: bytes = b"{}", tool: str = "clock") -> dict[str, object]:
    return {
        "tool_call_started": pb.ToolCallStarted(
            step=1, call_id=call_id, tool=tool, arguments=common.Json(utf8=arguments)
        )
    }


def finished(call_id: str, text: str = "noon") -> dict[str, object]:
    return {
        "tool_call_finished": pb.ToolCallFinished(
            step=1,
            call_id=call_id,
            tool="clock",
            status=pb.TOOL_CALL_STATUS_SUCCEEDED,
            content=[common.ContentBlock(text=text)],
        )
    }


def use(call_id: str, arguments: bytes = b"{}", tool: str = "clock") -> common.ToolUse:
    return common.ToolUse(call_id=call_id, tool=tool, arguments=common.Json(utf8=arguments))


RUN = {"run_started": pb.RunStarted()}
STEP = {"step_started": pb.StepStarted(step=1)}
RESTART = {"generation_restarted": pb.GenerationRestarted(step=1, discard_from=2)}


def test_an_empty_log_is_a_run_that_has_not_begun() -> None:
    state = fold()
    assert not state.started
    assert state.unfinished is None
    assert state.last_sequence == 0


def test_a_step_without_its_end_must_be_made_again_from_where_it_began() -> None:
    state = fold(RUN, STEP, {"text_delta": pb.TextDelta(step=1, text="half an ans")})
    assert state.unfinished is not None
    assert state.unfinished.sequence == 2
    assert state.last_sequence == 3


def test_a_finished_step_is_not_made_again_and_says_which_calls_are_open() -> None:
    content = [common.ContentBlock(tool_use=use("a")), common.ContentBlock(tool_use=use("b"))]
    usage = common.Usage(input_tokens=5, output_tokens=7)
    state = fold(
        RUN,
        STEP,
        started("a"),
        {"step_finished": pb.StepFinished(step=1, content=content, usage=usage)},
        finished("a"),
        started("b"),
    )
    assert state.unfinished is None
    (step,) = state.steps
    assert [call.call_id for call in step.calls] == ["a", "b"]
    assert set(step.results) == {"a"}
    assert set(step.started_calls) == {"a", "b"}
    assert state.usage == usage


def test_a_restart_keeps_the_results_of_finished_tools_for_the_same_calls() -> None:
    state = fold(RUN, STEP, started("a", b'{"x":1,"y":2}'), finished("a"), started("b"), RESTART)
    step = state.unfinished
    assert step is not None
    assert not step.results and not step.started_calls
    kept = step.reuse(use("other-id", b'{"y": 2, "x": 1}'))
    assert kept is not None and kept.content[0].text == "noon"
    assert step.reuse(use("again", b'{"x":1,"y":2}')) is None, "one result serves one call"
    assert step.reuse(use("b")) is None, "it had not finished"


def test_results_survive_several_restarts_of_the_same_step() -> None:
    state = fold(
        RUN, STEP, started("a"), finished("a", "one"), RESTART, STEP,
        started("b"), finished("b", "two"), RESTART,
    )  # fmt: skip
    step = state.unfinished
    assert step is not None
    texts = [kept.content[0].text for kept in (step.reuse(use("c")), step.reuse(use("d"))) if kept]
    assert texts == ["one", "two"]


def test_other_arguments_are_another_call() -> None:
    state = fold(RUN, STEP, started("a", b'{"x":1}'), finished("a"), RESTART)
    assert state.unfinished is not None
    assert state.unfinished.reuse(use("b", b'{"x":2}')) is None
    assert state.unfinished.reuse(use("c", b'{"x":1}', tool="other")) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b'{"a":1,"b":[1,2]}', b'{ "b": [1, 2], "a": 1 }', True),
        (b'{"a":1}', b'{"a":1.5}', False),
        (b'{"a":{"d":1,"c":2}}', b'{"a":{"c":2,"d":1}}', True),
        (b"not json", b"not json", True),
        (b"not json", b"not  json", False),
    ],
)
def test_calls_are_the_same_when_their_arguments_mean_the_same(
    one: bytes, other: bytes, same: bool
) -> None:
    assert (replay.fingerprint("t", one) == replay.fingerprint("t", other)) is same


def test_a_terminal_event_is_seen() -> None:
    state = fold(RUN, {"run_finished": pb.RunFinished(state=pb.RUN_STATE_CANCELLED)})
    assert state.terminal is not None
    assert state.terminal.state == pb.RUN_STATE_CANCELLED
