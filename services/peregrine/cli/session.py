"""One command's session with the services: where they are, and what a failure looks like."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console

from peregrine.client import CacheClient, MemoryClient, Patience, PeregrineClient, ToolsClient
from peregrine.kit import telemetry
from peregrine.kit.errors import DeadlineExceeded, PeregrineError, Unavailable
from peregrine.kit.settings import SettingsError, load, setting

FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

PATIENCE = Patience()
_CALL_SECONDS = 15.0
_TOOL_SECONDS = 320.0
# No service wrote the reason: the call never got there, or no answer came back.
_SILENCE = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "STREAM_ENDED"})

_Client = TypeVar("_Client", CacheClient, MemoryClient, PeregrineClient, ToolsClient)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where the services are."""

    orchestrator: str = setting(
        "PEREGRINE_ORCHESTRATOR_TARGET",
        default="127.0.0.1:50051",
        help="gRPC target of the orchestrator",
    )
    tools: str = setting(
        "PEREGRINE_TOOLS_TARGET", default="127.0.0.1:50053", help="gRPC target of the tool service"
    )
    cache: str = setting(
        "PEREGRINE_CACHE_TARGET", default="127.0.0.1:50054", help="gRPC target of the cache service"
    )
    memory: str = setting(
        "PEREGRINE_MEMORY_TARGET", default="127.0.0.1:50055", help="gRPC target of memory"
    )


class Unreachable(Exception):
    """A service did not answer at all; says so in one line."""

    def __init__(self, client: CacheClient | MemoryClient | PeregrineClient | ToolsClient) -> None:
        super().__init__(
            f"cannot reach the {client.name} service at {client.target}; "
            "is Peregrine running? Start it with: make run"
        )


def run(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Runs a command to its end and exits with the code it returns, or that its failure means."""
    # The first Ctrl-C cancels the work, which asyncio.run then raises as KeyboardInterrupt.
    with failures():
        code = asyncio.run(work)
    raise typer.Exit(code)


@contextmanager
def failures() -> Iterator[None]:
    """Turns what the services raise into one clear line on stderr and an exit code."""
    telemetry.configure_logging("cli", "error")
    # grpc's own words about connections would stand between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        yield
    except Unreachable as error:
        fail(str(error), UNREACHABLE)
    except PeregrineError as error:
        fail(describe(error), FAILED)
    except SettingsError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def fail(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def describe(error: PeregrineError) -> str:
    """A service's refusal in words: message, reason, what is wrong with which field."""
    text = error.message if error.reason in error.message else f"{error.message} ({error.reason})"
    if error.retry_after is not None:
        text += f"; try again in {error.retry_after:g} s"
    details = [f"{field}: {wrong}" for field, wrong in error.violations]
    return "\n".join([text, *(f"  {detail}" for detail in details if detail not in text)])


def is_silence(error: PeregrineError) -> bool:
    """Whether nobody answered, as opposed to a service that says why it cannot."""
    return isinstance(error, Unavailable | DeadlineExceeded) and error.reason in _SILENCE


def orchestrator(
    *, on_lost: Callable[[PeregrineError], None] | None = None
) -> AbstractAsyncContextManager[PeregrineClient]:
    """`on_lost` is told each time a run that is being read has to be read on elsewhere."""
    target = load(Targets, os.environ).orchestrator
    return _reaching(
        PeregrineClient(
            target, connections=1, timeout=_CALL_SECONDS, patience=PATIENCE, on_lost=on_lost
        )
    )


def memory() -> AbstractAsyncContextManager[MemoryClient]:
    target = load(Targets, os.environ).memory
    return _reaching(MemoryClient(target, connections=1, timeout=_CALL_SECONDS))


def tools() -> AbstractAsyncContextManager[ToolsClient]:
    target = load(Targets, os.environ).tools
    return _reaching(ToolsClient(target, connections=1, timeout=_TOOL_SECONDS))


def cache() -> AbstractAsyncContextManager[CacheClient]:
    target = load(Targets, os.environ).cache
    return _reaching(CacheClient(target, connections=1, timeout=_CALL_SECONDS))


@asynccontextmanager
async def _reaching(client: _Client) -> AsyncGenerator[_Client, None]:
    try:
        async with client:
            yield client
    except PeregrineError as error:
        if is_silence(error):
            raise Unreachable(client) from None
        raise


def console() -> Console:
    """Standard output: colours and width of the terminal, plain text when it is none."""
    return Console(file=sys.stdout, highlight=False, emoji=False, markup=False)
