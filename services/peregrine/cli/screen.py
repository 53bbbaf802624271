"""Shows a run to a person while it happens.

Text is written as it comes. Below it, on a terminal, stands the *live region*: one line for each
tool of the moment, turning until the tool has finished, and one line while the model is waited for.
The region is redrawn in place; as soon as text comes, it is left standing as it is and a new one
begins below. So nothing that has scrolled away is ever touched, and a tool that outlives its
region says on a line of its own that it has finished.

Where there is no terminal there is no region: a line when a tool starts, one when it has finished.

What the model or a tool says is data: control characters in it never reach the terminal.
"""

import time
from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli import waterfall
from peregrine.cli.words import Wrap, arguments, printable
from peregrine.client import ToolActivity, Transcript

# Seconds between two redraws of the live region.
FRAME = 0.1

_TURNING = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_MOST_WIDTH = 120


class Screen:
    """Draws the events of one run. `transcript` holds what they add up to.

    Args:
      live: whether lines may be redrawn; False for files and pipes.
      clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        live: bool,
        chart: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transcript = Transcript()
        self._console = console
        self._live = live
        self._chart = chart
        self._clock = clock
        self._unicode = (console.encoding or "").lower().startswith("utf")
        self._at_line_start = True
        self._wrap = Wrap()
        self._wrote_text = False
        self._region: list[str] = []  # call ids
        self._drawn = 0
        self._tools: dict[str, ToolActivity] = {}
        self._started: dict[str, float] = {}
        self._waiting_since: float | None = None
        self._model = ""
        self._thinking = False

    def waiting(self) -> None:
        """The request is on its way and nothing came back yet."""
        self._waiting_since = self._clock()
        self._draw()

    def event(self, event: pb.RunEvent) -> None:
        """Shows the next event."""
        dropped = self.transcript.add(event)
        match event.WhichOneof("payload"):
            case "step_started":
                self._step_started(event.step_started)
            case "text_delta":
                self._text(event.text_delta.text)
            case "thinking_delta":
                self._thought()
            case "tool_call_started":
                self._tool_started(self.transcript.tools[event.tool_call_started.call_id])
            case "tool_call_finished":
                self._tool_finished(self.transcript.tools[event.tool_call_finished.call_id])
            case "run_taken_over":
                self._line(Text("another orchestrator goes on with the run", "dim"))
            case "generation_restarted":
                self._discarded(dropped, "the model's call was cut and is made again")
            case "log_truncated":
                self._discarded(dropped, "the last events were lost before they were durable")
            case "model_retrying":
                self._retrying(event.model_retrying)
            case "run_waiting":
                self._run_waiting(event.run_waiting)
            case "run_finished":
                self._finished(event.run_finished)

    def tick(self) -> None:
        """Redraws what turns; to be called every `FRAME` seconds."""
        if self._drawn:
            self._draw()

    def note(self, message: str) -> None:
        """A line of our own between the others."""
        self._line(Text(printable(message), "yellow"))

    def close(self) -> None:
        """Leaves the terminal at the beginning of a line."""
        self._settle()
        self._end_line()

    # ---- Events ----

    def _step_started(self, step: pb.StepStarted) -> None:
        if step.model != self._model:
            self._model = step.model
            agent = self.transcript.agent
            text = Text(" · ".join(part for part in (agent, step.model) if part), "bold")
            if step.simulated:
                text.append(" · simulated model", "yellow")
            self._line(text)
        self._end_line()
        self._wrote_text = False
        self._thinking = False
        self._waiting_since = self._clock()
        self._draw()

    def _text(self, text: str) -> None:
        text = printable(text)
        if not text:
            return
        if self._region or self._drawn or self._waiting_since is not None:
            self._settle()
        if not self._wrote_text:
            # A little air between the tools above and the answer below.
            self._console.print()
            text = text.lstrip("\n")
        self._wrote_text = True
        self._write(text)

    def _thought(self) -> None:
        if not self._thinking:
            self._thinking = True
            self._line(Text("thinking …", "dim italic"))

    def _tool_started(self, tool: ToolActivity) -> None:
        self._tools[tool.call_id] = tool
        self._started[tool.call_id] = self._clock()
        self._waiting_since = None
        self._end_line()
        self._wrote_text = False
        if self._live:
            self._region.append(tool.call_id)
            self._draw()
        else:
            self._print(self._tool_line(tool))

    def _tool_finished(self, tool: ToolActivity) -> None:
        self._tools[tool.call_id] = tool
        if not any(each.running for each in self.transcript.tools.values()):
            self._waiting_since = self._clock()
        if tool.call_id in self._region:
            self._draw()
        else:
            self._line(self._tool_line(tool))

    def _discarded(self, dropped: list[pb.RunEvent], why: str) -> None:
        said = any(event.HasField("text_delta") for event in dropped)
        self.note(f"! {why}" + ("; what it just said no longer counts" if said else ""))
        self._wrote_text = False
        kept = self.transcript.step_text(self.transcript.step)
        if said and kept:
            self._text(kept)

    def _retrying(self, retry: pb.ModelRetrying) -> None:
        delay = waterfall.milliseconds(retry.delay.ToNanoseconds() / 1e6)
        reason = retry.error.message or retry.error.reason
        model = f" with {retry.model}" if retry.model else ""
        self.note(f"! {reason}: the model is asked again{model} in {delay}")

    def _run_waiting(self, waiting: pb.RunWaiting) -> None:
        if waiting.state == pb.RUN_STATE_AWAITING_APPROVAL:
            self.note(f"! {waiting.tool} waits for approval (call {waiting.call_id})")
        else:
            self.note(f"! nobody knows whether {waiting.tool} has run (call {waiting.call_id})")

    def _finished(self, finished: pb.RunFinished) -> None:
        self._settle()
        if finished.text and not self.transcript.step_text(self.transcript.step):
            self._text(finished.text)
        self._end_line()
        self._waiting_since = None
        if finished.state == pb.RUN_STATE_FAILED:
            error = finished.error
            reason = f" ({error.reason})" if error.reason else ""
            self._line(Text(printable(f"failed: {error.message}{reason}"), "bold red"))
        elif finished.state == pb.RUN_STATE_CANCELLED:
            self._line(Text("cancelled", "bold yellow"))
        if finished.truncated:
            self.note("! the agent's step limit ended the run before the model did")
        for degradation in finished.degradations:
            self.note(f"! went on without {degradation.what} ({degradation.reason})")
        if self._chart and finished.HasField("waterfall"):
            self._console.print()
            shades = None if self._unicode else waterfall.PLAIN
            for line in waterfall.draw(finished.waterfall, width=self._width(), shades=shades):
                self._print(line)
        self._print(Text(self._summary(finished), "dim"))

    def _summary(self, finished: pb.RunFinished) -> str:
        usage = finished.usage
        read = (
            usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        )
        parts = [
            f"{finished.steps} step{'' if finished.steps == 1 else 's'}",
            f"{read:,} tokens in, {usage.output_tokens:,} out",
        ]
        lines = [" · ".join(parts)]
        if self.transcript.conversation_id:
            lines.append(f"conversation {self.transcript.conversation_id}")
        return "\n".join(lines)

    # ---- Lines ----

    def _tool_line(self, tool: ToolActivity, *, frozen: bool = True) -> Text:
        text = Text(no_wrap=True, end="")
        ok, bad, start = ("✓", "✗", "▸") if self._unicode else ("+", "x", ">")
        if tool.running:
            mark = start if frozen else _TURNING[int(self._clock() / FRAME) % len(_TURNING)]
            text.append(f"  {mark} ", "cyan")
        elif tool.status == pb.TOOL_CALL_STATUS_SUCCEEDED:
            text.append(f"  {ok} ", "green")
        else:
            text.append(f"  {bad} ", "red")
        # In the region the names make a column.
        name = printable(tool.tool)
        names = [printable(self._tools[call_id].tool) for call_id in self._region]
        name = name.ljust(max(map(len, names), default=0))
        text.append(name, "bold")
        took = self._took(tool, frozen=frozen)
        room = self._width() - 6 - cell_len(name) - cell_len(took)
        said = arguments(tool.arguments)
        if not tool.running and tool.status != pb.TOOL_CALL_STATUS_SUCCEEDED:
            said = (tool.error.message if tool.error else "") or tool.text or "failed"
        said = " ".join(printable(said).split())
        if said and room > 8:
            if cell_len(said) > room:
                said = set_cell_size(said, room - 1).rstrip() + "…"
            text.append(f" {said}", "dim")
        if took:
            text.append(f" {took}", "cyan")
        return text

    def _took(self, tool: ToolActivity, *, frozen: bool) -> str:
        if tool.running:
            started = self._started.get(tool.call_id)
            if frozen or started is None:
                return ""
            return f"{self._clock() - started:.1f} s"
        if tool.execution_seconds is not None:
            took = waterfall.milliseconds(tool.execution_seconds * 1e3)
        elif tool.finish_time is not None:
            passed = (tool.finish_time - tool.start_time).total_seconds()
            took = waterfall.milliseconds(passed * 1e3)
        else:
            took = ""
        notes = [
            word for word, holds in (("cached", tool.cached), ("reused", tool.reused)) if holds
        ]
        return f"{took} ({', '.join(notes)})" if notes else took

    def _line(self, text: Text) -> None:
        """A whole line, below whatever stands there."""
        self._settle()
        self._end_line()
        self._print(text)
        self._wrote_text = False

    def _print(self, text: Text) -> None:
        text.end = "\n"
        self._console.print(text, soft_wrap=True)
        self._at_line_start = True

    def _write(self, text: str) -> None:
        if self._at_line_start:
            self._wrap.restart()
        shown = self._wrap.feed(text, self._width()) if self._live else text
        self._console.out(shown, end="", highlight=False)
        self._console.file.flush()
        self._at_line_start = text.endswith("\n")

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._console.print()
            self._at_line_start = True

    def _width(self) -> int:
        # One cell less: some terminals wrap when the last one is written.
        return min(self._console.width, _MOST_WIDTH) - 1

    # ---- The live region ----

    def _draw(self) -> None:
        if not self._live or not self._at_line_start:
            return
        lines = [self._tool_line(self._tools[call_id], frozen=False) for call_id in self._region]
        if self._waiting_since is not None:
            waited = self._clock() - self._waiting_since
            mark = _TURNING[int(self._clock() / FRAME) % len(_TURNING)]
            passed = f" {waited:.1f} s" if waited >= 1 else ""
            lines.append(Text(f"  {mark} {self._model or 'starting'}{passed}", "dim"))
        self._redraw(lines)

    def _settle(self) -> None:
        """Leaves the region standing and begins a new one below."""
        self._waiting_since = None
        if self._drawn or self._region:
            self._redraw([self._tool_line(self._tools[call_id]) for call_id in self._region])
            self._region.clear()
            self._drawn = 0

    def _redraw(self, lines: list[Text]) -> None:
        most = max(self._console.height - 1, 1)
        if len(lines) > most:  # what scrolled away cannot be redrawn
            self._region = self._region[len(lines) - most :]
            lines = lines[-most:]
        console = self._console
        erase = Control((ControlType.ERASE_IN_LINE, 2))
        with console:  # one write
            if self._drawn:
                # Also what the terminal echoed there, a ^C for one.
                console.control(Control(ControlType.CARRIAGE_RETURN), erase)
                console.control(Control((ControlType.CURSOR_UP, self._drawn)))
            for line in lines:
                line.truncate(self._width())
                console.control(erase)
                console.print(line, end="\n", soft_wrap=True)
            spare = self._drawn - len(lines)
            for _ in range(spare):
                console.control(erase)
                console.print()
            if spare > 0:
                console.control(Control((ControlType.CURSOR_UP, spare)))
        self._drawn = len(lines)
