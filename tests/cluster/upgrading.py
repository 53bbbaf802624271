"""Another version of every service under load, and a backup that brings a conversation back.

Both are what docs/operations.md says, word for word.
"""

from pathlib import Path

from tests.cluster import documented
from tests.cluster.callers import Callers
from tests.cluster.installing import ROOT, Cluster
from tests.cluster.kubectl import Failed, until
from tests.cluster.using import user

SECONDS = 600.0


def upgrade(crowd: Callers, overlay: Path) -> str:
    """Runs and calls go on, and none fails."""
    crowd.forget()
    crowd.rates(runs=0.7, calls=1.0, reads=0.5)
    (block,) = documented.commands("Upgrade")
    environ = {"OVERLAY": str(overlay)}
    documented.follow(block, directory=ROOT, seconds=SECONDS, environ=environ)
    Cluster(overlay).become_ready()
    crowd.quiet()
    return crowd.finished(at_least=20)


def back_up_and_restore(directory: Path) -> str:
    """Everything is lost but a dump; afterwards the conversation is there, and goes on."""
    with user() as somebody:
        run, conversation = somebody.run("My name is Ada. What is 6 * 7?")
    for heading in ("Back up", "Restore"):
        (block,) = documented.commands(heading)
        documented.follow(block, directory=directory, seconds=SECONDS)
    Cluster(ROOT).become_ready()

    def remembered() -> str:
        with user() as somebody:
            return somebody.remembers(run, conversation)

    seen, _ = until(remembered, seconds=60, what="the conversation is there", interval=1)
    (dump,) = directory.glob("*.dump")
    if not dump.stat().st_size:
        raise Failed("the dump is empty")
    return f"a dump of {dump.stat().st_size / 1024:.0f} KiB; {seen}"
