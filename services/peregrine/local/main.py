"""`make run`: settings, signals and the exit code around a `Supervisor`.

0: stopped because it was told to; 1: something failed, said in one line; 2: settings are wrong.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping

from rich.console import Console

from peregrine.kit.settings import SettingsError, load
from peregrine.local.processes import ProcessFailed
from peregrine.local.settings import LocalSettings
from peregrine.local.supervisor import Supervisor
from peregrine.local.terminal import Terminal


def run(environ: Mapping[str, str]) -> int:
    """Run everything here until Ctrl-C or SIGTERM."""
    try:
        settings = load(LocalSettings, environ)
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    terminal = Terminal(Console())
    supervisor = Supervisor(settings=settings, environ=environ, terminal=terminal)
    try:
        asyncio.run(_until_told(supervisor, terminal))
    except ProcessFailed as problem:
        terminal.failure(str(problem))
        return 1
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        terminal.failure(f"{where}{problem.strerror or problem}")
        return 1
    terminal.say("Stopped.", style="dim")
    return 0


async def _until_told(supervisor: Supervisor, terminal: Terminal) -> None:
    running = asyncio.ensure_future(supervisor.run())
    told = False

    def tell() -> None:
        nonlocal told
        if not told:
            told = True
            running.cancel()
        else:
            terminal.say("Killing what is left.", style="dim")
            supervisor.kill()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, tell)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()
