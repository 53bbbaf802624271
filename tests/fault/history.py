"""The checker: what is wrong with what was seen of one run.

`problems` returns sentences, none when the history is one that Peregrine promises:

* every reader saw positions 1, 2, 3 … without a gap, the same events, one terminal event at the end
  (a reader may be sent back by an explicit `log_truncated`, and then goes on from there);
* an epoch's events are contiguous: once a newer owner has appended, an older one never does again;
* what is left of the text is what the model sends, whole;
* a tool that finished did not run again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.orchestrator.replay import fingerprint
from tests.support import stack

Reading = Sequence[pb.RunEvent]


@dataclass(slots=True, kw_only=True)
class History:
    """Everything that was seen of one run.

    Attributes:
      readings: what each reader got, in the order it got it, by the reader's name.
      expected_text: what a reader's screen must show at the end.
      executions: how often the tools say they ran, by what they were asked; None: not counted.
    """

    readings: dict[str, list[pb.RunEvent]] = field(default_factory=dict)
    expected_text: str = ""
    executions: Mapping[str, int] | None = None


def problems(history: History) -> list[str]:
    found: list[str] = []
    final: list[bytes] | None = None
    for name, reading in history.readings.items():
        found += [f"{name}: {problem}" for problem in _reading(reading)]
        kept = [event.SerializeToString() for event in obeyed(reading)]
        if final is None:
            final = kept
        elif kept != final:
            found.append(f"{name}: saw another log than the first reader")
    if not history.readings:
        return ["nobody read it"]
    log = obeyed(next(iter(history.readings.values())))
    found += _epochs(log)
    if history.expected_text and stack.text(log) != history.expected_text:
        found.append(f"the text is {stack.text(log)[:60]!r}…, not what the model sent")
    found += _tools(log, history.executions)
    return found


def obeyed(reading: Reading) -> list[pb.RunEvent]:
    """The log as it stands once truncations are obeyed."""
    kept: list[pb.RunEvent] = []
    for event in reading:
        if event.HasField("log_truncated"):
            kept = [each for each in kept if each.sequence <= event.log_truncated.to]
        kept.append(event)
    return kept


def _reading(reading: Reading) -> Iterable[str]:
    position = 0
    for event in reading:
        expected = position + 1
        if event.HasField("log_truncated") and event.log_truncated.to < position:
            expected = event.log_truncated.to + 1
        if event.sequence != expected:
            yield f"position {event.sequence} came where {expected} was due"
        position = event.sequence
    terminals = [event.sequence for event in reading if event.HasField("run_finished")]
    if len(terminals) != 1:
        yield f"{len(terminals)} terminal events"
    elif terminals[0] != position:
        yield f"events after the terminal one at {terminals[0]}"


def _epochs(log: Reading) -> Iterable[str]:
    newest = 0
    for event in log:
        if event.epoch < newest:
            yield f"epoch {event.epoch} appended position {event.sequence} after epoch {newest}"
        newest = max(newest, event.epoch)


def _tools(log: Reading, executions: Mapping[str, int] | None) -> Iterable[str]:
    asked: dict[str, tuple[int, str, bytes]] = {}
    ran: Counter[tuple[int, str, bytes]] = Counter()
    begun: Counter[str] = Counter()
    answered: set[str] = set()
    for event in log:
        if event.HasField("tool_call_started"):
            started = event.tool_call_started
            asked[started.call_id] = (
                started.step,
                *fingerprint(started.tool, started.arguments.utf8),
            )
            begun[started.arguments.utf8.decode()] += 1
        elif event.HasField("tool_call_finished"):
            result = event.tool_call_finished
            if result.call_id not in asked:
                yield f"{result.tool} finished and had not started"
                continue
            if result.call_id in answered:
                yield f"{result.tool} ({result.call_id}) has two results"
            answered.add(result.call_id)
            if result.reused:
                begun[asked[result.call_id][2].decode()] -= 1
            else:
                ran[asked[result.call_id]] += 1
    for (step, tool, arguments), times in ran.items():
        if times > 1:
            yield f"step {step}: {tool} {arguments.decode()} finished {times} times, not once"
    for what, times in (executions or {}).items():
        if times > begun[what]:
            yield f"{what} ran {times} times, started {begun[what]} times"
