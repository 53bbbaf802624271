"""What the declarations of commands have in common."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


def run(work: Coroutine[Any, Any, int]) -> None:
    """Runs a command and exits with its code."""
    from peregrine.cli import session

    session.run(work)
