"""The one entry of everything: `python -m peregrine SERVICE`, or the command line `peregrine`.

A service name alone runs that service in this process (all its settings are PEREGRINE_* variables,
so it takes no arguments). Everything else is a command of the CLI. Each is imported when it is
asked for, so that starting one does not pay for the others.

`tools` and `cache` are services and groups of commands: `python -m peregrine tools` serves,
`peregrine tools` is the CLI.
"""

import importlib
import os
import sys
from collections.abc import Sequence

SERVICES = {
    "orchestrator": "peregrine.orchestrator.main",
    "llm-gateway": "peregrine.llm_gateway.main",
    "tools": "peregrine.tools.main",
    "memory": "peregrine.memory.main",
    "cache": "peregrine.cache.main",
    "edge": "peregrine.edge.main",
    "simulator": "peregrine.simulator.main",
    "stand-in": "peregrine.local.stand_in",
    "migrate": "peregrine.local.migrate",
    "local": "peregrine.local.main",
}
_ALSO_COMMANDS = frozenset({"cache", "tools"})


def serve(service: str) -> int:
    """Run a service until it is told to stop; returns the exit code."""
    # gRPC reads it when it is first imported; why is in ADR 0023.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    run = importlib.import_module(SERVICES[service]).run
    code: int = run(os.environ)
    return code


def command_line() -> int:
    """Run the CLI on the arguments of this process."""
    cli = importlib.import_module("peregrine.cli")
    cli.app(prog_name="peregrine")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script `peregrine`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) == 1 and arguments[0] in SERVICES.keys() - _ALSO_COMMANDS:
        return serve(arguments[0])
    return command_line()


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1] in SERVICES:
        sys.exit(serve(sys.argv[1]))
    sys.exit(command_line())
