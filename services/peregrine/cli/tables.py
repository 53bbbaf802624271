"""Lists as aligned columns: on a terminal, what does not fit is left out, least needed first. A
single thing as names and values.

In a pipe nothing is left out or cut, so that `grep` and `awk` see everything.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from peregrine.cli.words import printable
from peregrine.client import jsonl

_GUTTER = 2
# Of a last column that is cut to fit, this much is worth leaving others out for.
_LEAST_TEXT = 24


@dataclass(frozen=True, slots=True)
class Column:
    """A heading; columns with the highest `rank` are left out first. `right` aligns numbers."""

    heading: str
    rank: int = 0
    right: bool = False


def show(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str
) -> None:
    """Prints rows under headings, or `empty` when there are none."""
    if not rows:
        console.print(empty, style="dim", soft_wrap=True)
        return
    widths = [
        max(cell_len(column.heading), *(cell_len(row[index]) for row in rows))
        for index, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    if console.is_terminal:
        while len(kept) > 1 and _least(columns, kept, widths) > console.width:
            spared = max(kept, key=lambda index: (columns[index].rank, index))
            if columns[spared].rank == 0:
                break
            kept.remove(spared)
        last = kept[-1]
        room = console.width - _total(kept, widths) + widths[last]
        if not columns[last].right and widths[last] > room >= _LEAST_TEXT // 3:
            widths[last] = room
    heading = [columns[index].heading for index in range(len(columns))]
    for number, row in enumerate([heading, *rows]):
        cells = []
        for index in kept:
            cell = row[index]
            if cell_len(cell) > widths[index]:
                cell = set_cell_size(cell, widths[index] - 1).rstrip() + "…"
            padding = " " * (widths[index] - cell_len(cell))
            cells.append(padding + cell if columns[index].right else cell + padding)
        line = (" " * _GUTTER).join(cells).rstrip()
        console.print(Text(line, "bold" if number == 0 else ""), soft_wrap=True)


def ago(time: Timestamp, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that says something: "12s", "5m", "3h", "2d"."""
    if not time.seconds:
        return "-"
    passed = (now or datetime.now(UTC)) - time.ToDatetime(tzinfo=UTC)
    seconds = max(int(passed.total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def one_line(text: str, most: int = 200) -> str:
    """The text without line breaks, cut when it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def show_fields(
    console: Console, message: Message, *, title: str, without: tuple[str, ...] = ()
) -> None:
    """What is set in a message, as indented names and values."""
    console.print(Text(printable(title), "bold"), soft_wrap=True)
    plain = {name: value for name, value in jsonl.plain(message).items() if name not in without}
    for line in _indented(plain, "  "):
        console.print(Text(printable(line)), soft_wrap=True)


def _indented(value: dict[str, object], indent: str) -> Iterator[str]:
    """Names and values in two columns; what is empty or zero is left out."""
    entries = {
        name: entry
        for name, entry in value.items()
        if entry not in ("", 0, False, [], {}) and not str(entry).endswith("_UNSPECIFIED")
    }
    width = max(map(len, entries), default=0)
    for name, entry in entries.items():
        if isinstance(entry, dict):
            yield f"{indent}{name}"
            yield from _indented(entry, indent + "  ")
            continue
        if isinstance(entry, list):
            entry = ", ".join(map(str, entry))
        shown = entry if isinstance(entry, str) else json.dumps(entry)
        first, *more = shown.splitlines()
        yield f"{indent}{name.ljust(width)}  {first}"
        yield from (f"{indent}{' ' * width}  {line}" for line in more)


def _least(columns: Sequence[Column], kept: Sequence[int], widths: Sequence[int]) -> int:
    """The width that the columns need when the last one may be cut."""
    last = kept[-1]
    cut = 0 if columns[last].right else max(widths[last] - _LEAST_TEXT, 0)
    return _total(kept, widths) - cut


def _total(kept: Sequence[int], widths: Sequence[int]) -> int:
    return sum(widths[index] for index in kept) + _GUTTER * (len(kept) - 1)
