"""A terminal as far as the screen needs one: what a person sees after a stream of characters."""

import io
import re

from rich.cells import cell_len
from rich.console import Console

_TOKEN = re.compile(r"\x1b\[(\d*)([A-Za-z])|\x1b\[[\d;]*m|(.|\n)", re.DOTALL)


class Terminal(io.StringIO):
    """Understands text, newline, carriage return, cursor up and back, erase; it never wraps."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def rows(self) -> list[str]:
        rows: list[list[str]] = [[]]  # of cells; the second one of a wide character is empty
        row = column = 0
        for count, code, character in _TOKEN.findall(self.getvalue()):
            if code == "A":
                row -= int(count or 1)
                assert row >= 0, "moved above the first row"
            elif code == "D":
                column -= int(count or 1)
                assert column >= 0, "moved before the first column"
            elif code == "K":
                rows[row] = [] if count == "2" else rows[row][:column]
            elif code:
                raise AssertionError(f"an unexpected control sequence: {code}")
            elif character == "\n":
                row, column = row + 1, 0
                if row == len(rows):
                    rows.append([])
            elif character == "\r":
                column = 0
            elif character:
                cells = [character, *[""] * (cell_len(character) - 1)]
                line = rows[row] + [" "] * (column - len(rows[row]))
                rows[row] = line[:column] + cells + line[column + len(cells) :]
                column += len(cells)
        return ["".join(cells) for cells in rows]

    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self.rows())


def console(terminal: Terminal, *, width: int = 80, height: int = 24) -> Console:
    return Console(
        file=terminal,
        force_terminal=True,
        color_system=None,
        width=width,
        height=height,
        highlight=False,
        markup=False,
        legacy_windows=False,
    )


def plain_console(file: io.StringIO, *, width: int = 80) -> Console:
    return Console(file=file, force_terminal=False, width=width, highlight=False, markup=False)
