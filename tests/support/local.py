"""A whole Peregrine as `make run` starts it: a process of its own, with a state directory and ports
of its own, so that it does not meet the developer's."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from peregrine.local.processes import Child, Children
from tests.support.eventually import eventually
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parents[2]
READY = "Ctrl-C stops everything"


@dataclass(frozen=True, kw_only=True)
class LocalPeregrine:
    """`environ` makes the CLI and further starts use the same state and ports."""

    children: Children
    directory: Path
    environ: dict[str, str]

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def target(self) -> str:
        return self.environ["PEREGRINE_ORCHESTRATOR_TARGET"]

    def start(self, **more: str) -> Child:
        """Start it. What it says is in the child's log."""
        number = len(list(self.directory.glob("output-*")))
        return self.children.spawn(
            "local",
            [sys.executable, "-m", "peregrine", "local"],
            env=self.environ | more,
            cwd=REPOSITORY,
            log_path=self.directory / f"output-{number}",
        )

    async def ready(self, local: Child) -> str:
        """Wait until it says that it runs; returns all that it said."""
        await eventually(lambda: local.returncode is not None or READY in said(local), timeout=90)
        assert READY in said(local), said(local)
        return said(local)

    async def cli(self, *arguments: str) -> str:
        """What the command prints on success."""
        number = len(list(self.directory.glob("cli-*")))
        command = self.children.spawn(
            "cli",
            [sys.executable, "-m", "peregrine", *arguments],
            env=self.environ,
            log_path=self.directory / f"cli-{number}",
        )
        assert await command.wait(60) == 0, said(command)
        return said(command)

    def processes(self) -> dict[str, psutil.Process]:
        """What runs on the state directory, by what it is (a service's name, or a program's)."""
        return {
            _name(process): process
            for process in psutil.process_iter()
            if _mentions(process, str(self.state))
        }

    async def nothing_left(self, *, timeout: float = 15.0) -> None:
        await eventually(lambda: not self.processes(), timeout=timeout, what="no process is left")


def local_peregrine(children: Children, directory: Path) -> LocalPeregrine:
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PEREGRINE_", "ANTHROPIC_"))
    }
    environ["PEREGRINE_STATE_DIR"] = str(directory / "state")
    for service in ("ORCHESTRATOR", "LLM_GATEWAY", "TOOLS", "MEMORY", "CACHE", "EDGE"):
        port = free_port()
        environ[f"PEREGRINE_LOCAL_{service}_PORT"] = str(port)
        environ[f"PEREGRINE_{service}_TARGET"] = f"127.0.0.1:{port}"
    environ["PEREGRINE_LOCAL_SIMULATOR_PORT"] = "0"
    environ["PEREGRINE_LOCAL_SIMULATOR_CONTROL_PORT"] = "0"
    return LocalPeregrine(children=children, directory=directory, environ=environ)


def said(child: Child) -> str:
    return child.log_path.read_text()


def _mentions(process: psutil.Process, text: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return text in " ".join(process.cmdline()) or text in process.environ().values()
    except psutil.Error:  # it has just ended, or is not ours
        return False


def _name(process: psutil.Process) -> str:
    try:
        command = process.cmdline()
    except psutil.Error:
        return "gone"
    if "peregrine" in command[:-1]:
        return command[-1]
    return Path(command[0]).name if command else "gone"
