"""What `make run` shows: one line for each stage when it is done, and what is under way meanwhile.

On a terminal the stages under way are shown beside a spinner; elsewhere each says that it begins.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table


class Stage:
    """A stage under way; `detail` is shown when it is done."""

    def __init__(self) -> None:
        self.detail = ""


class Terminal:
    """Stages may overlap; each prints its own line when it ends well."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._under_way: list[str] = []
        self._status: Status | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        stage = Stage()
        started = time.monotonic()
        self._under_way.append(name)
        if self._console.is_terminal:
            self._show()
        else:
            self._console.print(f"    {escape(name)} …", highlight=False)
        try:
            yield stage
            seconds = time.monotonic() - started
            self._console.print(
                f"  [green]✓[/] {escape(name):<16}{seconds:5.1f} s  [dim]{escape(stage.detail)}[/]",
                highlight=False,
                soft_wrap=True,
            )
        finally:
            self._under_way.remove(name)
            self._show()

    def say(self, text: str, *, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def warning(self, text: str) -> None:
        self.say(f"  ! {' '.join(text.split())}", style="yellow")

    def failure(self, text: str) -> None:
        """The one line that tells what went wrong, on standard error."""
        # A record may have several lines; the terminal gets one.
        Console(stderr=True).print(
            f"Peregrine stopped: {' '.join(text.split())}",
            style="bold red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def summary(
        self,
        *,
        page: str,
        simulated: bool,
        rows: Sequence[tuple[str, str]],
        commands: Sequence[str],
    ) -> None:
        table = Table.grid(padding=(0, 3))
        for name, place in rows:
            table.add_row(f"  {escape(name)}", escape(place))
        self.say("")
        self.say("Peregrine runs here:", style="bold")
        self._console.print(table, highlight=False)
        if simulated:
            self.say("")
            self.say(
                "SIMULATED MODEL: a stand-in answers. Set ANTHROPIC_API_KEY for a real one.",
                style="bold yellow",
            )
        self.say("")
        self.say("Open the page:")
        self.say(f"  {page}", style="bold cyan")
        self.say("")
        self.say("Or, in another terminal:")
        for command in commands:
            self.say(f"  {command}", style="bold cyan")
        self.say("")
        self.say("Ctrl-C stops everything; what it knows stays.", style="dim")

    def _show(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._under_way and self._console.is_terminal:
            self._status = self._console.status(", ".join(self._under_way))
            self._status.start()
