"""A run's log folded into where the run stands: what a new owner goes on from.

The log is the journal. A step (one model call) counts once its `step_finished` is in the log; a
tool call once its `tool_call_finished` is. A step that began and did not finish is made again by
whoever goes on; the results of tools that had finished in it are kept and given to the same calls
of the new attempt, so that a finished tool never runs again.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb

Fingerprint = tuple[str, bytes]


def fingerprint(tool: str, arguments: bytes) -> Fingerprint:
    """The same for two calls that ask the same thing: the arguments in canonical form."""
    try:
        canonical = orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS)
    except ValueError:
        canonical = arguments
    return tool, canonical


@dataclass(slots=True)
class Step:
    """One model call and the tools it asked for."""

    number: int
    # The position of its step_started: what a restart discards from.
    sequence: int = 0
    finished: pb.StepFinished | None = None
    started_calls: dict[str, pb.ToolCallStarted] = field(default_factory=dict)
    results: dict[str, pb.ToolCallFinished] = field(default_factory=dict)
    # Results of attempts that no longer count, by what was asked.
    reusable: dict[Fingerprint, list[pb.ToolCallFinished]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def restart(self) -> None:
        """Forgets the attempt but for the results of its tools."""
        for call_id, result in self.results.items():
            started = self.started_calls[call_id]
            self.reusable[fingerprint(started.tool, started.arguments.utf8)].append(result)
        self.started_calls.clear()
        self.results.clear()

    def reuse(self, call: common.ToolUse) -> pb.ToolCallFinished | None:
        """Takes the result that an earlier attempt got for the same call, once."""
        kept = self.reusable.get(fingerprint(call.tool, call.arguments.utf8))
        return kept.pop(0) if kept else None

    @property
    def calls(self) -> list[common.ToolUse]:
        """The tool calls of a finished step, in the model's order."""
        if self.finished is None:
            return []
        return [b.tool_use for b in self.finished.content if b.WhichOneof("block") == "tool_use"]


@dataclass(slots=True)
class Replay:
    """Where a run stands."""

    last_sequence: int = 0
    started: bool = False
    steps: list[Step] = field(default_factory=list)
    terminal: pb.RunFinished | None = None
    # Wall-clock seconds of the last event; what a take-over's pause is measured from.
    last_time: float = 0.0
    degradations: list[common.Degradation] = field(default_factory=list)
    usage: common.Usage = field(default_factory=common.Usage)

    def apply(self, event: pb.RunEvent) -> None:
        self.last_sequence = event.sequence
        self.last_time = event.create_time.ToNanoseconds() / 1e9
        kind = event.WhichOneof("payload")
        if kind == "run_started":
            self.started = True
        elif kind == "context_loaded":
            self.degradations = list(event.context_loaded.degradations)
        elif kind == "step_started":
            self._begin(event.step_started.step, event.sequence)
        elif kind == "generation_restarted":
            if self.steps and self.steps[-1].number == event.generation_restarted.step:
                self.steps[-1].restart()
        elif kind == "tool_call_started":
            started = event.tool_call_started
            self.steps[-1].started_calls[started.call_id] = started
        elif kind == "tool_call_finished":
            result = event.tool_call_finished
            self.steps[-1].results[result.call_id] = result
        elif kind == "step_finished":
            self.steps[-1].finished = event.step_finished
            add_usage(self.usage, event.step_finished.usage)
        elif kind == "run_finished":
            self.terminal = event.run_finished

    def _begin(self, number: int, sequence: int) -> None:
        # After a restart the same step begins again and keeps what its tools found out.
        if self.steps and self.steps[-1].number == number:
            self.steps[-1].sequence = sequence
        else:
            self.steps.append(Step(number, sequence))

    @property
    def unfinished(self) -> Step | None:
        """The step whose model call must be made again, if any."""
        if self.steps and self.steps[-1].finished is None:
            return self.steps[-1]
        return None


def fold(events: Iterable[pb.RunEvent]) -> Replay:
    replay = Replay()
    for event in events:
        replay.apply(event)
    return replay


def add_usage(total: common.Usage, part: common.Usage) -> None:
    total.input_tokens += part.input_tokens
    total.output_tokens += part.output_tokens
    total.cache_read_input_tokens += part.cache_read_input_tokens
    total.cache_creation_input_tokens += part.cache_creation_input_tokens
