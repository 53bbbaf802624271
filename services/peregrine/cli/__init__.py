"""The command line: talk to an agent, watch and cancel runs, apply resources, look around.

    peregrine chat "What is 25 * 17?"      peregrine apply -f examples/
    peregrine watch RUN --after 12         peregrine agents|runs|conversations|tools …

`commands` declares what can be typed; the other modules do it. What a command needs (gRPC, the
protos) is imported when it runs, so that `peregrine --help` answers at once.

Exit codes: 0 it worked; 1 the run failed or was cancelled, or the service said no; 2 the command
was not understood; 3 the service cannot be reached; 130 interrupted.
"""

from peregrine.cli.commands import app

__all__ = ["app"]
