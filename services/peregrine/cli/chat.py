"""One turn with an agent, or a whole conversation, on the screen or as JSON.

Ctrl-C means "stop this answer": the run is cancelled on the server, and what it still says until
its terminal event is shown. A second Ctrl-C leaves at once. When the first comes before the run is
known, the cancellation waits for its first event: the request is out, and hanging up would not end
it.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType

import typer

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.cli import session
from peregrine.cli.screen import FRAME, Screen
from peregrine.cli.words import state_name
from peregrine.client import PeregrineClient, Transcript, jsonl
from peregrine.kit.errors import PeregrineError

# Until a cancelled run has to have ended.
_CANCEL_SECONDS = 10.0


def run(
    message: str | None, *, agent: str, conversation_id: str | None, as_json: bool, waterfall: bool
) -> None:
    """The command `peregrine chat`."""
    if message == "-" or (message is None and not sys.stdin.isatty()):
        message = sys.stdin.read()
    if message is None:
        if as_json:
            session.fail("--json needs a MESSAGE, or one on standard input", session.USAGE)
        _prompt(agent=agent, conversation_id=conversation_id, waterfall=waterfall)
    elif not message.strip():
        session.fail("the message is empty", session.USAGE)
    else:
        session.run(
            _say(
                message,
                agent=agent,
                conversation_id=conversation_id,
                as_json=as_json,
                waterfall=waterfall,
            )
        )


async def watch(run_id: str, *, after: int, as_json: bool, waterfall: bool) -> int:
    """The command `peregrine watch`."""
    view = _view(as_json=as_json, waterfall=waterfall)
    async with session.orchestrator(on_lost=_on_lost(view)) as client:
        try:
            await _show(client.watch_run(run_id, after), view)
        except PeregrineError as error:
            _lost(error, client, view.transcript, run_id)
            raise
        if view.transcript.finished is None:
            state = (await client.get_run(run_id)).state
            view.note(f"nothing comes after event {after}: the run {state_name(state)}")
            return 0 if state == pb.RUN_STATE_SUCCEEDED else session.FAILED
    return _code(view.transcript)


async def _say(
    message: str, *, agent: str, conversation_id: str | None, as_json: bool, waterfall: bool
) -> int:
    view = _view(as_json=as_json, waterfall=waterfall)
    async with session.orchestrator(on_lost=_on_lost(view)) as client:
        await _turn(client, client.chat(agent, message, conversation_id), view)
    return _code(view.transcript)


def _prompt(*, agent: str, conversation_id: str | None, waterfall: bool) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives input() editing and history
    typer.secho("Ctrl-D ends the conversation, Ctrl-C an answer.", dim=True)

    conversation = conversation_id
    with session.failures(), asyncio.Runner() as runner:
        stack = AsyncExitStack()
        client = runner.run(stack.enter_async_context(session.orchestrator()))
        try:
            while True:
                message = input("\nyou ▸ ")
                if message.strip():
                    turn = _answer(client, agent, message, conversation, waterfall=waterfall)
                    conversation = runner.run(turn)
        except EOFError:
            typer.echo()
        finally:
            runner.run(stack.aclose())


async def _answer(
    client: PeregrineClient, agent: str, message: str, conversation: str | None, *, waterfall: bool
) -> str | None:
    """One turn of the prompt; a refusal is said and the prompt comes back."""
    view = _view(as_json=False, waterfall=waterfall)
    try:
        await _turn(client, client.chat(agent, message, conversation), view)
    except PeregrineError as error:
        if session.is_silence(error):
            raise session.Unreachable(client) from None
        typer.echo(f"error: {session.describe(error)}", err=True)
    return view.transcript.conversation_id or conversation


class _Json:
    """Prints events for programs."""

    def __init__(self) -> None:
        self.transcript = Transcript()

    def event(self, event: pb.RunEvent) -> None:
        self.transcript.add(event)
        typer.echo(jsonl.line(event))

    def note(self, message: str) -> None:
        typer.echo(message, err=True)

    def waiting(self) -> None:
        """Programs see that nothing came yet."""

    tick = close = waiting


def _view(*, as_json: bool, waterfall: bool) -> Screen | _Json:
    if as_json:
        return _Json()
    console = session.console()
    live = console.is_terminal and not console.is_dumb_terminal
    return Screen(console, live=live, chart=waterfall)


def _on_lost(view: Screen | _Json) -> Callable[[PeregrineError], None]:
    """Says once for each position that the connection is gone and being made again."""
    told = 0

    def lost(error: PeregrineError) -> None:
        nonlocal told
        position = view.transcript.last_sequence
        if position > told:
            told = position
            view.note("! the connection was lost; reading on …")

    return lost


def _code(transcript: Transcript) -> int:
    return 0 if transcript.state == pb.RUN_STATE_SUCCEEDED else session.FAILED


async def _turn(
    client: PeregrineClient, events: AsyncGenerator[pb.RunEvent, None], view: Screen | _Json
) -> None:
    """Shows a run that is ours: Ctrl-C cancels it."""
    with _Interrupts() as interrupts:
        begun = asyncio.Event()
        reading = asyncio.create_task(_show(events, view, begun))
        cancelling = asyncio.create_task(_cancel(client, view, begun, interrupts))
        leaving = asyncio.create_task(interrupts.second.wait())
        tasks = (reading, cancelling, leaving)
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    transcript = view.transcript
    if not reading.cancelled():
        try:
            reading.result()
        except PeregrineError as error:
            _lost(error, client, transcript, transcript.run_id)
            raise
    else:
        session.fail(_left(transcript), session.INTERRUPTED)


async def _show(
    events: AsyncGenerator[pb.RunEvent, None],
    view: Screen | _Json,
    begun: asyncio.Event | None = None,
) -> None:
    view.waiting()
    try:
        async with _ticking(view), aclosing(events):
            async for event in events:
                view.event(event)
                if begun is not None:
                    begun.set()
    finally:
        view.close()


@asynccontextmanager
async def _ticking(view: Screen | _Json) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(FRAME)
            view.tick()

    ticker = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticker.cancel()
        await asyncio.gather(ticker, return_exceptions=True)


async def _cancel(
    client: PeregrineClient,
    view: Screen | _Json,
    begun: asyncio.Event,
    interrupts: "_Interrupts",
) -> None:
    await interrupts.first.wait()
    view.note("cancelling the run … (Ctrl-C again leaves at once)")
    await begun.wait()
    try:
        await client.cancel_run(view.transcript.run_id)
    except PeregrineError as error:
        view.note(f"the run could not be cancelled: {session.describe(error)}")
    else:
        await asyncio.sleep(_CANCEL_SECONDS)
        view.note(f"the run has not ended after {_CANCEL_SECONDS:g} s")
    interrupts.second.set()


def _lost(
    error: PeregrineError, client: PeregrineClient, transcript: Transcript, run_id: str
) -> None:
    """Says how to go on when the service went away while a run was being read."""
    if transcript.last_sequence and session.is_silence(error):
        session.fail(
            f"lost the orchestrator at {client.target}; the run goes on without this terminal. "
            f"Read on with: peregrine watch {run_id} --after {transcript.last_sequence}",
            session.UNREACHABLE,
        )


def _left(transcript: Transcript) -> str:
    if not transcript.run_id:
        return "left before the run was known; it may have begun"
    return f"left; read on with: peregrine watch {transcript.run_id}"


class _Interrupts:
    """Ctrl-C as two events while the block runs."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> "_Interrupts":
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupted)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _interrupted(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
