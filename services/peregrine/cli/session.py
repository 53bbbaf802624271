"""One command's session with the services: where they are, who asks, what a failure looks like.

With an API key, the orchestrator is shown the key, and the other services the identity that the
orchestrator gives for it.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console

from peregrine.client import (
    CacheClient,
    Exchange,
    IdentityClient,
    MemoryClient,
    Patience,
    PeregrineClient,
    Tls,
    ToolsClient,
)
from peregrine.kit import context, telemetry
from peregrine.kit.errors import DeadlineExceeded, PeregrineError, Unavailable
from peregrine.kit.settings import Problem, Secret, SettingsError, load, setting

FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

PATIENCE = Patience()
_CALL_SECONDS = 15.0
_TOOL_SECONDS = 320.0
# No service wrote the reason: the call never got there, or no answer came back.
_SILENCE = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "STREAM_ENDED"})

_HINTS = {
    "CREDENTIALS_MISSING": "set PEREGRINE_API_KEY, or name a file with --api-key-file",
    "CREDENTIALS_INVALID": "the key is in PEREGRINE_API_KEY or in the file of --api-key-file",
    "TLS_NEEDED": "--tls or --no-tls",
}

_Any = CacheClient | IdentityClient | MemoryClient | PeregrineClient | ToolsClient
_Client = TypeVar("_Client", bound=_Any)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where the services are, and who asks."""

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
    api_key: Secret | None = setting(
        "PEREGRINE_API_KEY",
        default=None,
        help="an API key (or a JWT) that says who you are; not needed with `make run`",
    )
    api_key_file: Path | None = setting(
        "PEREGRINE_API_KEY_FILE",
        default=None,
        help="a file that holds the key, as --api-key-file; comes before PEREGRINE_API_KEY",
    )
    tls: bool | None = setting(
        "PEREGRINE_TLS",
        default=None,
        help="whether connections are encrypted, as --tls and --no-tls; unset: they are not, and a "
        "key is sent to this machine only",
    )
    tls_ca: Path | None = setting(
        "PEREGRINE_TLS_CA",
        default=None,
        help="PEM file of the authorities that are trusted, as --tls-ca; those of gRPC when unset",
    )

    def key(self) -> str | None:
        """Raises SettingsError when the file cannot be read."""
        if self.api_key_file is None:
            return None if self.api_key is None else self.api_key.reveal()
        return _contents("PEREGRINE_API_KEY_FILE", self.api_key_file).decode().strip()

    def encryption(self) -> Tls | bool | None:
        """Raises SettingsError when the file cannot be read."""
        if self.tls_ca is None or self.tls is False:
            return self.tls
        return Tls(_contents("PEREGRINE_TLS_CA", self.tls_ca))


class Unreachable(Exception):
    """A service did not answer at all; says so in one line."""

    def __init__(self, client: _Any) -> None:
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


def json_object(text: str) -> bytes:
    """What was typed, if it is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        fail(f"that is not JSON: {error}", USAGE)
    if not isinstance(value, dict):
        fail("that is not a JSON object", USAGE)
    return text.encode("utf-8")


def describe(error: PeregrineError) -> str:
    """A service's refusal in words: message, reason, what is wrong with which field."""
    text = error.message if error.reason in error.message else f"{error.message} ({error.reason})"
    if error.reason in _HINTS:
        text += f"; {_HINTS[error.reason]}"
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
    targets = load(Targets, os.environ)
    return _reaching(
        PeregrineClient(
            targets.orchestrator,
            connections=1,
            timeout=_CALL_SECONDS,
            api_key=targets.key(),
            tls=targets.encryption(),
            patience=PATIENCE,
            on_lost=on_lost,
        )
    )


def identities() -> AbstractAsyncContextManager[IdentityClient]:
    return _reaching(_identities(load(Targets, os.environ)))


def memory() -> AbstractAsyncContextManager[MemoryClient]:
    targets = load(Targets, os.environ)
    return _proving(MemoryClient, targets, targets.memory, _CALL_SECONDS)


def tools() -> AbstractAsyncContextManager[ToolsClient]:
    targets = load(Targets, os.environ)
    return _proving(ToolsClient, targets, targets.tools, _TOOL_SECONDS)


def cache() -> AbstractAsyncContextManager[CacheClient]:
    targets = load(Targets, os.environ)
    return _proving(CacheClient, targets, targets.cache, _CALL_SECONDS)


def _identities(targets: Targets) -> IdentityClient:
    return IdentityClient(
        targets.orchestrator,
        timeout=_CALL_SECONDS,
        api_key=targets.key(),
        tls=targets.encryption(),
    )


@asynccontextmanager
async def _proving(
    kind: type[_Client], targets: Targets, target: str, timeout: float
) -> AsyncGenerator[_Client, None]:
    """A client of a service that takes no keys, with what the orchestrator gives for ours."""
    given: dict[str, Any] = {"connections": 1, "timeout": timeout}
    key = targets.key()
    async with AsyncExitStack() as stack:
        if key is not None:
            asked = await stack.enter_async_context(_reaching(_identities(targets)))
            exchange = Exchange(asked)
            stack.push_async_callback(exchange.aclose)
            # Now, so that an orchestrator that is away is not taken for the service behind.
            await exchange.identify(key)
            given |= {"api_key": key, "tls": targets.encryption(), "exchange": exchange}
        else:
            # Whom the open door of `make run` takes a caller for who says nothing.
            given["identity"] = context.LOCAL
            if targets.tls:
                given["tls"] = targets.encryption()
        yield await stack.enter_async_context(_reaching(kind(target, **given)))


def _contents(variable: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        wrong = f"{path} cannot be read ({error.strerror or error})"
        raise SettingsError([Problem(variable, wrong, "name a file that you may read")]) from None


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
