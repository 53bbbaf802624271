"""The steps of `make test-cluster`, each with what was seen and how long it took.

The order is that of a user: install, look whether it runs, apply it again (nothing may change),
apply the examples, use them, look at them with kubectl. Then callers inside the cluster make load,
and what is promised of pools, policies and the operator has to hold under it. In the end everything
goes away again. A step that fails says why, with the events of the namespace, and what was
installed stays to be looked at.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
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

PARTS = ("use", "backup", "pools", "scale-ins", "upgrade", "many")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def step(name: str, work: Callable[[], str]) -> None:
    started = time.monotonic()
    seen = work()
    say(f"  ok   {time.monotonic() - started:6.1f} s  {name}: {seen}")


def refuse_what_is_not_ours() -> None:
    """An installation that is there already would be removed at the end."""
    if asked("get", "namespaces", "--field-selector", f"metadata.name={NAMESPACE}")["items"]:
        raise Failed(
            f"the namespace {NAMESPACE} exists already: remove it first, or allow this run to use"
            " it with --reuse (it is removed at the end unless --keep is given)"
        )


def drive(arguments: argparse.Namespace, directory: Path) -> None:
    def overlay(name: str, image: str, **more: Any) -> Path:
        return overlay_with_image(ROOT, arguments.overlay, image, directory / name, **more)

    plain = overlay("plain", arguments.image)
    cluster = Cluster(plain)
    if not arguments.reuse:
        refuse_what_is_not_ours()
    step("install", cluster.install)
    step("ready", cluster.become_ready)
    if "use" in arguments.parts:
        use(cluster)
    if "backup" in arguments.parts:
        step("backup and restore", lambda: upgrading.back_up_and_restore(directory))
    if "many" in arguments.parts:
        step("many resources", lambda: many.bear(arguments.many))
    if {"pools", "scale-ins", "upgrade"} & arguments.parts:
        crowded = overlay("crowded", arguments.image, components=[callers.DIRECTORY])
        step("callers inside", lambda: callers.install(crowded))
        with callers.callers() as crowd:
            press(arguments, crowd, directory)
    if arguments.keep:
        say("It stays, as you asked. To remove it:")
        say("  kubectl delete -f examples/ && kubectl delete -k k8s/overlays/dev")
    else:
        step("remove", cluster.remove)


def use(cluster: Cluster) -> None:
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


def press(arguments: argparse.Namespace, crowd: callers.Callers, directory: Path) -> None:
    """What has to hold while callers call."""
    if "pools" in arguments.parts:
        step("a pool that cannot be", pools.refuse_upside_down)
        step("a pool grows", lambda: pools.grow(crowd))
        killed = time.monotonic()
        step("the operator is killed", pools.kill_the_operator)
        step("pools that cannot be scaled", pools.say_what_is_wrong)
        step("no Prometheus", pools.live_without_prometheus)
        step("a time to live moves", pools.tuned)
        step("a pool shrinks", lambda: pools.shrink(crowd, killed=killed))
    if "scale-ins" in arguments.parts:
        step("scale-ins", lambda: pools.scale_in(crowd, arguments.scale_ins, say))
    if "upgrade" in arguments.parts:
        newer = overlay_with_image(
            ROOT,
            arguments.overlay,
            arguments.upgrade_to,
            directory / "newer",
            components=[callers.DIRECTORY],
            stores=arguments.image,
        )
        step("upgrade", lambda: upgrading.upgrade(crowd, newer))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-cluster", description=__doc__)
    parser.add_argument("--overlay", default="dev", help="of k8s/overlays")
    parser.add_argument("--image", default="peregrine:dev", help="as the cluster knows it")
    parser.add_argument("--keep", action="store_true", help="leave everything installed")
    parser.add_argument("--reuse", action="store_true", help="also where it is installed already")
    parser.add_argument(
        "--parts",
        default="use,backup,pools",
        help=f"what to do, comma separated, of {', '.join(PARTS)}; %(default)s",
    )
    parser.add_argument("--scale-ins", type=int, default=100, help="how many; %(default)s")
    parser.add_argument("--many", type=int, default=500, help="how many; %(default)s")
    parser.add_argument("--upgrade-to", default="", help="another image; its services replace ours")
    arguments = parser.parse_args()
    arguments.parts = set(arguments.parts.split(","))
    if unknown := arguments.parts - set(PARTS):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}")
    if ("upgrade" in arguments.parts) != bool(arguments.upgrade_to):
        parser.error("--parts upgrade and --upgrade-to need each other")
    if not os.environ.get("KUBECONFIG"):
        say("test-cluster: set KUBECONFIG to the file of a cluster that may be used for this")
        return 2
    say(f"==> {kubectl('config', 'current-context').strip()}")
    with tempfile.TemporaryDirectory() as directory:
        try:
            drive(arguments, Path(directory))
        except Failed as problem:
            say(f"  FAILED  {problem}")
            say(kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "wide"))
            say(
                kubectl("--namespace", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp")[
                    -4000:
                ]
            )
            return 1
    say("All of it holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
