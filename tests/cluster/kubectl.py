"""kubectl as a function: what it said, or what it complained of."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

NAMESPACE = "peregrine"
STORES = ("postgres", "redis-logs", "redis-cache")
SERVICES = ("memory", "cache", "llm-gateway", "tools", "orchestrator", "edge", "operator")
CALL_SECONDS = 120.0


class Failed(Exception):
    """Something is not as it should be; the message says what, in words for people."""


def kubectl(
    *arguments: str,
    accept: tuple[int, ...] = (0,),
    seconds: float = CALL_SECONDS,
    given: str | None = None,
    complaints: bool = False,
) -> str:
    """Its standard output.

    Args:
      given: its standard input, for `--filename -`.
      complaints: what it complained of instead.

    Raises:
      Failed: another exit code than those of `accept`, or no answer in time.
    """
    shown = f"kubectl {' '.join(arguments)}"
    try:
        done = subprocess.run(
            ["kubectl", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            input=given,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{shown}: no answer within {seconds:g} s") from None
    if done.returncode not in accept:
        raise Failed(f"{shown}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stderr if complaints else done.stdout


def asked(*arguments: str) -> Any:
    """The objects, parsed."""
    return json.loads(kubectl(*arguments, "--output", "json"))


def until(
    condition: Callable[[], T], *, seconds: float, what: str, interval: float = 0.2
) -> tuple[T, float]:
    """The first true result, and the seconds it took. `Failed` inside counts as "not yet"."""
    started = time.monotonic()
    last: object = None
    while (passed := time.monotonic() - started) < seconds:
        try:
            if result := condition():
                return result, time.monotonic() - started
        except Failed as problem:
            last = problem
        time.sleep(interval)
    raise Failed(f"not within {passed:.0f} s: {what}; last: {last}")


@contextlib.contextmanager
def forwarded(namespace: str, resource: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to `port` of `resource`, until the end of the block."""
    process = subprocess.Popen(
        ["kubectl", "--namespace", namespace, "port-forward", resource, f":{port}"],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(CALL_SECONDS, process.kill)
    watchdog.start()
    try:
        match = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", process.stdout.readline())
        watchdog.cancel()
        if match is None:
            raise Failed(f"port {port} of {resource} cannot be forwarded")
        # It writes a line for each connection, and must not stop for want of a reader.
        reader = threading.Thread(target=process.stdout.read, daemon=True)
        reader.start()
        yield int(match[1])
    finally:
        watchdog.cancel()
        process.terminate()
        process.wait(10)


def overlay_with_image(
    root: Path,
    overlay: str,
    image: str,
    directory: Path,
    *,
    components: Sequence[Path] = (),
    stores: str = "",
    marked: bool = False,
) -> Path:
    """`directory` as an overlay of k8s/overlays/`overlay` in which our image is `image`.

    Args:
      components: further directories that belong to it.
      stores: the image that PostgreSQL and Redis run from, so that they stay as they are.
      marked: every other pod is another one than it would be without, though it runs the same.
    """
    directory.mkdir(exist_ok=True)
    name, _, tag = image.rpartition(":")
    here = directory.resolve()
    base = os.path.relpath(root / "k8s" / "overlays" / overlay, here)
    beside = [os.path.relpath(each, here) for each in components]
    patches = [_as_image(each, stores) for each in STORES if stores]
    patches += [_as_new(each) for each in SERVICES if marked]
    directory.joinpath("kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n"
        "kind: Kustomization\n"
        f"namespace: {NAMESPACE}\n"
        f"resources: [{json.dumps(base)}]\n"
        f"components: {json.dumps(beside)}\n"
        f"patches: {json.dumps(patches)}\n"
        f"images: [{{name: peregrine, newName: {json.dumps(name)}, newTag: {json.dumps(tag)}}}]\n"
    )
    return directory


def _as_image(deployment: str, image: str) -> dict[str, Any]:
    """Under another name, which the image's replacement does not know."""
    operation = {
        "op": "replace",
        "path": "/spec/template/spec/containers/0/image",
        "value": f"docker.io/library/{image}",
    }
    return {"target": {"kind": "Deployment", "name": deployment}, "patch": json.dumps([operation])}


def _as_new(deployment: str) -> dict[str, Any]:
    """As another release would be: its pods are replaced."""
    metadata = {"annotations": {"peregrine.dev/release": str(int(time.time()))}}
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": deployment},
        "spec": {"template": {"metadata": metadata}},
    }
    return {"target": {"kind": "Deployment", "name": deployment}, "patch": json.dumps(patch)}
