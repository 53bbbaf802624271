"""What others say, made fit for a terminal: without control characters, short, in plain words."""

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from rich.cells import cell_len

from peregrine.api.orchestrator.v1 import orchestrator_pb2

_CONTROLS: dict[int, str | None] = {
    **{code: None for code in (*range(32), *range(127, 160)) if code != 10},
    9: "    ",
}


def printable(text: str) -> str:
    """The text without control characters other than newline; a tab is four spaces."""
    return text.translate(_CONTROLS)


def arguments(text: str) -> str:
    """A tool's arguments in short: the value alone when there is one, else name=value pairs."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    words = {
        name: entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
        for name, entry in value.items()
    }
    if len(words) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{name}={word}" for name, word in words.items())


def state_name(state: int) -> str:
    """A run's state as a person reads it: "succeeded", "awaiting approval"."""
    return enum_name(orchestrator_pb2.RunState, state, "RUN_STATE_").lower().replace("_", " ")


def enum_name(kind: Any, number: int, prefix: str = "") -> str:
    """The name of an enum's value without its prefix; the number when it is of a newer server."""
    known = kind.DESCRIPTOR.values_by_number.get(number)
    return known.name.removeprefix(prefix) if known else str(number)


def span(duration: Duration) -> str:
    """As it is written in a manifest: "90s", "1h30m"."""
    left, words = duration.ToMilliseconds(), []
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words) or "0s"


class Wrap:
    """Breaks lines between words while the text is still coming.

    Nothing is held back: when a word that has been written turns out not to fit, it is taken back
    from the end of its line and written again on the next one.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""

    def feed(self, text: str, width: int) -> str:
        """What to write so that `text` goes on where the last one ended, within `width` cells."""
        written = []
        for character in text:
            cells = cell_len(character)
            if character == "\n":
                self._column, self._word = 0, ""
            elif self._column + cells > width:
                character = self._broken(character)
                self._column = cell_len(self._word)
            else:
                self._word = "" if character.isspace() else self._word + character
                self._column += cells
            written.append(character)
        return "".join(written)

    def _broken(self, character: str) -> str:
        if character.isspace():
            self._word = ""
            return "\n"
        back = cell_len(self._word)
        if not 0 < back < self._column:
            self._word = character
            return f"\n{character}"
        self._word += character
        return f"\x1b[{back}D\x1b[K\n{self._word}"

    def restart(self) -> None:
        """The cursor is at the beginning of a line."""
        self._column, self._word = 0, ""
