"""What the events of a run add up to: its text, its tool calls, its state.

A run's log is append-only, but not everything in it keeps counting. When another orchestrator takes
a run over, the model call that was cut is made again, and what it had said is void
(`generation_restarted`: drop from `discard_from` on); when the live tail was lost with its owner,
readers saw events that were never made durable (`log_truncated`: drop what came after `to`). A
`Transcript` holds the events that count and folds them, so that no reader writes these rules again.

It is pure: no clock, no I/O. Feed it every event in the order received.
"""

from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb


@dataclass(slots=True)
class ToolActivity:
    """One tool call as far as the log tells. `status` is UNSPECIFIED while it runs."""

    call_id: str
    tool: str
    step: int
    arguments: str  # a JSON object, as text
    eager: bool
    start_time: datetime
    status: pb.ToolCallStatus = pb.TOOL_CALL_STATUS_UNSPECIFIED
    finish_time: datetime | None = None
    execution_seconds: float | None = None
    cached: bool = False
    reused: bool = False
    text: str = ""
    error: common_pb2.Error | None = None

    @property
    def running(self) -> bool:
        return self.finish_time is None


class Transcript:
    """Folds the events of one run. The attributes say what is known so far.

    Attributes:
      run_id, agent, conversation_id: empty until `run_started` was seen.
      state: RUNNING, or waiting, until the terminal event.
      model, simulated: of the newest step.
      tools: by call id, in the order they started.
      finished: the terminal payload, or None.
      last_sequence, last_epoch: where to read on from.
      takeovers, restarts, truncations: how often each was seen; a later discard does not undo them.
    """

    def __init__(self) -> None:
        self._events: list[pb.RunEvent] = []
        self.last_sequence = 0
        self.last_epoch = 0
        self.takeovers = 0
        self.restarts = 0
        self.truncations = 0
        self._reset()

    def _reset(self) -> None:
        self._text: dict[int, list[str]] = {}
        self.run_id = ""
        self.agent = ""
        self.conversation_id = ""
        self.state: pb.RunState = pb.RUN_STATE_RUNNING
        self.waiting: pb.RunWaiting | None = None
        self.step = 0
        self.model = ""
        self.simulated = False
        self.tools: dict[str, ToolActivity] = {}
        self.finished: pb.RunFinished | None = None

    @property
    def events(self) -> tuple[pb.RunEvent, ...]:
        """The events that count, in order."""
        return tuple(self._events)

    @property
    def text(self) -> str:
        """The answer: the text of the last step."""
        if self.finished is not None:
            return self.finished.text
        return self.step_text(self.step)

    def step_text(self, step: int) -> str:
        """What the model said in a step, 1, 2, 3 …"""
        return "".join(self._text.get(step, ()))

    def add(self, event: pb.RunEvent) -> list[pb.RunEvent]:
        """Takes the next event; returns the earlier ones that no longer count because of it.

        An event that is already here is ignored.

        Raises:
          ValueError: events between the last one and this one are missing.
        """
        if event.sequence <= self.last_sequence and event.epoch <= self.last_epoch:
            return []
        if self.last_sequence and event.sequence > self.last_sequence + 1:
            raise ValueError(f"events {self.last_sequence + 1} to {event.sequence - 1} are missing")
        dropped = self._drop(_valid_through(event))
        self.last_sequence, self.last_epoch = event.sequence, event.epoch
        self._events.append(event)
        match event.WhichOneof("payload"):
            case "run_taken_over":
                self.takeovers += 1
            case "generation_restarted":
                self.restarts += 1
            case "log_truncated":
                self.truncations += 1
        if dropped:
            self._reset()
            for each in self._events:
                self._fold(each)
        else:
            self._fold(event)
        return dropped

    def _drop(self, through: int) -> list[pb.RunEvent]:
        keep = len(self._events)
        while keep and self._events[keep - 1].sequence > through:
            keep -= 1
        dropped = self._events[keep:]
        del self._events[keep:]
        return dropped

    def _fold(self, event: pb.RunEvent) -> None:
        match event.WhichOneof("payload"):
            case "run_started":
                self.run_id = event.run_started.run_id
                self.agent = event.run_started.agent
                self.conversation_id = event.run_started.conversation_id
            case "step_started":
                self.step = event.step_started.step
                self.model = event.step_started.model
                self.simulated = event.step_started.simulated
                self._going_on()
            case "text_delta":
                self.step = event.text_delta.step
                self._text.setdefault(self.step, []).append(event.text_delta.text)
            case "tool_call_started":
                started = event.tool_call_started
                self.tools[started.call_id] = _started(started, _time(event))
                self._going_on()
            case "tool_call_finished":
                finished = event.tool_call_finished
                activity = self.tools.get(finished.call_id)
                if activity is None:  # its start was before the position read from
                    activity = ToolActivity(
                        finished.call_id, finished.tool, finished.step, "", False, _time(event)
                    )
                    self.tools[finished.call_id] = activity
                _finish(activity, finished, _time(event))
                self._going_on()
            case "run_waiting":
                self.waiting = event.run_waiting
                self.state = event.run_waiting.state
            case "run_finished":
                self.finished = event.run_finished
                self.state = event.run_finished.state
                self.waiting = None

    def _going_on(self) -> None:
        self.waiting = None
        self.state = pb.RUN_STATE_RUNNING


async def collect(events: AsyncIterable[pb.RunEvent]) -> Transcript:
    """Reads a run to its end and returns what it adds up to."""
    transcript = Transcript()
    async for event in events:
        transcript.add(event)
    return transcript


def text_of(content: Iterator[common_pb2.ContentBlock] | list[common_pb2.ContentBlock]) -> str:
    """The text blocks of a message or a tool result, one after the other."""
    return "\n".join(block.text for block in content if block.WhichOneof("block") == "text")


def _valid_through(event: pb.RunEvent) -> int:
    """The last earlier position that still counts once `event` was appended."""
    match event.WhichOneof("payload"):
        case "generation_restarted":
            return min(event.generation_restarted.discard_from, event.sequence) - 1
        case "log_truncated":
            return min(event.log_truncated.to, event.sequence - 1)
    return event.sequence - 1


def _started(started: pb.ToolCallStarted, time: datetime) -> ToolActivity:
    return ToolActivity(
        call_id=started.call_id,
        tool=started.tool,
        step=started.step,
        arguments=started.arguments.utf8.decode("utf-8", "replace"),
        eager=started.eager,
        start_time=time,
    )


def _finish(activity: ToolActivity, finished: pb.ToolCallFinished, time: datetime) -> None:
    activity.status = finished.status
    activity.finish_time = time
    if finished.HasField("execution_time"):
        activity.execution_seconds = finished.execution_time.ToNanoseconds() / 1e9
    activity.cached = finished.cached
    activity.reused = finished.reused
    activity.text = text_of(list(finished.content))
    activity.error = finished.error if finished.HasField("error") else None


def _time(event: pb.RunEvent) -> datetime:
    return event.create_time.ToDatetime(tzinfo=UTC)
