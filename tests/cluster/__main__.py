"""The steps of `make test-cluster`, each with what was seen and how long it took.

The order is that of a user: install, look whether it runs, apply it again (nothing may change),
apply the examples, use them, look at them with kubectl. Then callers inside the cluster make load,
and what is promised of pools, policies and the operator has to hold under it. In the end a table
says what was seen of each line, and everything goes away again. A step that fails says why, the
next part goes on, and what was installed stays to be looked at.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster import callers, many, pools, upgrading
from tests.cluster.installing import ROOT, Cluster
from tests.cluster.kubectl import NAMESPACE, Failed, asked, kubectl, overlay_with_image
from tests.cluster.using import (
    apply_examples,
    look_at_examples,
    scrape,
    user,
)

PARTS = ("use", "backup", "many", "pools", "scale-ins", "upgrade")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Steps:
    """What was done, and what was seen of it."""

    def __init__(self) -> None:
        self._rows: list[tuple[bool, float, str, str]] = []

    def step(self, name: str, work: Callable[[], str]) -> None:
        """Raises Failed when it does not hold, once that is noted."""
        started = time.monotonic()
        try:
            seen = work()
        except (Failed, OSError, ValueError) as problem:
            self._note(False, started, name, f"{problem}")
            raise Failed(f"{name}: {problem}") from problem
        self._note(True, started, name, seen)

    def _note(self, holds: bool, started: float, name: str, seen: str) -> None:
        row = holds, time.monotonic() - started, name, seen
        self._rows.append(row)
        say(_line(row))

    @contextmanager
    def part(self) -> Iterator[None]:
        """A failure ends what is inside, and nothing else."""
        with suppress(Failed):
            yield

    @property
    def failed(self) -> bool:
        return not all(holds for holds, *_ in self._rows)

    def table(self) -> str:
        return "\n".join(_line(row) for row in self._rows)


def _line(row: tuple[bool, float, str, str]) -> str:
    holds, seconds, name, seen = row
    first, *more = seen.splitlines() or [""]
    below = "".join(f"\n{'':18}{each}" for each in more)
    return f"  {'ok    ' if holds else 'FAILED'} {seconds:7.1f} s  {name}: {first}{below}"


def refuse_what_is_not_ours() -> str:
    """An installation that is there already would be removed at the end."""
    if asked("get", "namespaces", "--field-selector", f"metadata.name={NAMESPACE}")["items"]:
        raise Failed(
            f"the namespace {NAMESPACE} exists already: remove it first, or allow this run to use"
            " it with --reuse (it is removed at the end unless --keep is given)"
        )
    return f"no namespace {NAMESPACE} yet"


def drive(arguments: argparse.Namespace, directory: Path, steps: Steps) -> None:
    # Another image for the upgrade replaces services, and leaves the stores as they are.
    stores = arguments.image if arguments.upgrade_to else ""

    def overlay(name: str, image: str, **more: Any) -> Path:
        where = directory / name
        return overlay_with_image(ROOT, arguments.overlay, image, where, stores=stores, **more)

    plain = overlay("plain", arguments.image)
    cluster = Cluster(plain)
    if not arguments.reuse:
        steps.step("room", refuse_what_is_not_ours)
    steps.step("install", cluster.install)
    steps.step("ready", cluster.become_ready)
    if "use" in arguments.parts:
        with steps.part():
            use(cluster, steps)
    if "backup" in arguments.parts:
        with steps.part():
            steps.step("backup and restore", lambda: upgrading.back_up_and_restore(directory))
    if "many" in arguments.parts:
        with steps.part():
            steps.step("many resources", lambda: many.bear(arguments.many))
    if {"pools", "scale-ins", "upgrade"} & arguments.parts:
        crowded = overlay("crowded", arguments.image, components=[callers.DIRECTORY])
        steps.step("callers inside", lambda: callers.install(crowded))
        with callers.callers() as crowd:
            newer = overlay(
                "newer",
                arguments.upgrade_to or arguments.image,
                components=[callers.DIRECTORY],
                marked=True,
            )
            press(arguments, crowd, newer, steps)
    if arguments.keep or steps.failed:
        say("It stays to be looked at. To remove it:")
        say("  kubectl delete -f examples/ && kubectl delete -k k8s/overlays/dev")
    else:
        steps.step("remove", cluster.remove)


def use(cluster: Cluster, steps: Steps) -> None:
    step = steps.step
    step("second apply", cluster.apply_again)
    with user() as somebody:
        step("edge", somebody.knock)
        step("examples", lambda: apply_examples(somebody))
        step("kubectl get agents,tools", look_at_examples)
        step("chat", somebody.answer)
        step("a declared tool", somebody.answer_from_the_web)
    step("metrics", scrape)
    step("apply with examples", cluster.apply_again)
    step("apply twice, server-side", cluster.apply_server_side)
    step("the overlay for production", cluster.take_production)


def press(arguments: argparse.Namespace, crowd: callers.Callers, newer: Path, steps: Steps) -> None:
    """What has to hold while callers call; `newer` is the overlay of the release that follows."""
    step = steps.step
    if "pools" in arguments.parts:
        with steps.part():
            step("a pool that cannot be", pools.refuse_upside_down)
            step("a pool grows", lambda: pools.grow(crowd))
            step("the operator is killed", pools.kill_the_operator)
            step("pools that cannot be scaled", pools.say_what_is_wrong)
            step("a time to live moves", pools.tuned)
            step("twelve times the load", lambda: pools.burst(crowd, arguments.burst))
            step("no Prometheus", pools.live_without_prometheus)
            step("somebody scales by hand", lambda: pools.obey_somebody(crowd))
            step("a pool shrinks", lambda: pools.shrink(crowd))
    if "scale-ins" in arguments.parts:
        with steps.part():
            step("scale-ins", lambda: pools.scale_in(crowd, arguments.scale_ins, say))
    if "upgrade" in arguments.parts:
        with steps.part():
            step("upgrade", lambda: upgrading.upgrade(crowd, newer))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-cluster", description=__doc__)
    parser.add_argument("--overlay", default="dev", help="of k8s/overlays")
    parser.add_argument("--image", default="peregrine:dev", help="as the cluster knows it")
    parser.add_argument("--keep", action="store_true", help="leave everything installed")
    parser.add_argument("--reuse", action="store_true", help="also where it is installed already")
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help="what to do, separated by commas: all of %(default)s",
    )
    parser.add_argument("--scale-ins", type=int, default=100, help="how many; %(default)s")
    parser.add_argument(
        "--burst",
        type=float,
        default=15.0,
        help="tool calls a second through the edge, for a minute; %(default)s, which two cores "
        "that do other work bear. The whole cluster has to",
    )
    parser.add_argument("--many", type=int, default=500, help="how many; %(default)s")
    parser.add_argument(
        "--upgrade-to", default="", help="another image for the upgrade; else the same, anew"
    )
    arguments = parser.parse_args()
    arguments.parts = set(arguments.parts.split(","))
    if unknown := arguments.parts - set(PARTS):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}")
    if not os.environ.get("KUBECONFIG"):
        say("test-cluster: set KUBECONFIG to the file of a cluster that may be used for this")
        return 2
    say(f"==> {kubectl('config', 'current-context').strip()}")
    steps, started = Steps(), time.monotonic()
    with tempfile.TemporaryDirectory() as directory, steps.part():
        drive(arguments, Path(directory), steps)
    if steps.failed:
        say(kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "wide"))
        events = kubectl("--namespace", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp")
        say(events[-4000:])
    say(f"\nSeen in {(time.monotonic() - started) / 60:.0f} minutes:\n{steps.table()}\n")
    say("Not all of it holds." if steps.failed else "All of it holds.")
    return int(steps.failed)


if __name__ == "__main__":
    sys.exit(main())
