"""The checker finds what was planted, and nothing in a sound history."""

import copy

import pytest

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from tests.fault.history import History, problems

ARGUMENTS = '{"text":"a"}'


def event(sequence: int, epoch: int = 1, **payload: object) -> pb.RunEvent:
    return pb.RunEvent(sequence=sequence, epoch=epoch, **payload)  # type: ignore[arg-type]


def started(call_id: str) -> pb.ToolCallStarted:
    arguments = common.Json(utf8=ARGUMENTS.encode())
    return pb.ToolCallStarted(step=1, call_id=call_id, tool="count", arguments=arguments)


def sound() -> History:
    """A run that was taken over in the middle of its second model call."""
    log = [
        event(1, run_started=pb.RunStarted()),
        event(2, step_started=pb.StepStarted(step=1)),
        event(3, tool_call_started=started("c1")),
        event(4, tool_call_finished=pb.ToolCallFinished(step=1, call_id="c1", tool="count")),
        event(5, text_delta=pb.TextDelta(step=1, text="half")),
        event(6, 2, run_taken_over=pb.RunTakenOver()),
        event(7, 2, generation_restarted=pb.GenerationRestarted(step=1, discard_from=2)),
        event(8, 2, step_started=pb.StepStarted(step=1)),
        event(9, 2, tool_call_started=started("c2")),
        event(
            10,
            2,
            tool_call_finished=pb.ToolCallFinished(step=1, call_id="c2", tool="count", reused=True),
        ),
        event(11, 2, text_delta=pb.TextDelta(step=1, text="whole")),
        event(12, 2, run_finished=pb.RunFinished(state=pb.RUN_STATE_SUCCEEDED)),
    ]
    return History(
        readings={"one": log, "other": copy.deepcopy(log)},
        expected_text="whole",
        executions={ARGUMENTS: 1},
    )


def test_a_sound_history_has_no_problems() -> None:
    assert problems(sound()) == []


def test_a_reader_sent_back_by_a_truncation_has_no_problems() -> None:
    history = sound()
    log = history.readings["one"]
    lost = [*log[:5], event(6, text_delta=pb.TextDelta(step=1, text="lost"))]
    lost.append(event(7, text_delta=pb.TextDelta(step=1, text="too")))
    rest = [event(6, 2, log_truncated=pb.LogTruncated(to=5)), *copy.deepcopy(log[5:])]
    for each in rest[1:]:
        each.sequence += 1
    history.readings = {"sent back": [*lost, *rest], "late": [*log[:5], *copy.deepcopy(rest)]}
    assert problems(history) == []


def gap(history: History) -> None:
    del history.readings["one"][4]


def twice(history: History) -> None:
    history.readings["one"].insert(5, history.readings["one"][4])


def no_end(history: History) -> None:
    history.readings["one"].pop()


def two_ends(history: History) -> None:
    again = copy.deepcopy(history.readings["one"][-1])
    again.sequence += 1
    history.readings["one"].append(again)


def another_log(history: History) -> None:
    history.readings["other"][4].text_delta.text = "other"


def zombie(history: History) -> None:
    for reading in history.readings.values():
        reading[8].epoch = 1


def lost_text(history: History) -> None:
    for reading in history.readings.values():
        reading[10].text_delta.text = "hole"


def ran_again(history: History) -> None:
    for reading in history.readings.values():
        reading[9].tool_call_finished.reused = False


def ran_in_secret(history: History) -> None:
    history.executions = {ARGUMENTS: 2}


def two_results(history: History) -> None:
    for reading in history.readings.values():
        reading[9].tool_call_finished.call_id = "c1"


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (gap, "came where"),
        (twice, "came where"),
        (no_end, "0 terminal events"),
        (two_ends, "2 terminal events"),
        (another_log, "another log"),
        (zombie, "epoch 1 appended"),
        (lost_text, "not what the model sent"),
        (ran_again, "finished 2 times"),
        (ran_in_secret, "ran 2 times"),
        (two_results, "two results"),
    ],
)
def test_a_planted_bug_is_found(plant: object, said: str) -> None:
    history = sound()
    assert callable(plant)
    plant(history)
    assert any(said in problem for problem in problems(history)), problems(history)
