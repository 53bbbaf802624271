"""kubectl as a function: what it said, or what it complained of."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

CALL_SECONDS = 120.0


class Failed(Exception):
    """Something is not as it should be; the message says what, in words for people."""


def kubectl(*arguments: str, accept: tuple[int, ...] = (0,), seconds: float = CALL_SECONDS) -> str:
    """Its standard output.

    Raises:
      Failed: another exit code than those of `accept`, or no answer in time.
    """
    shown = f"kubectl {' '.join(arguments)}"
    try:
        done = subprocess.run(
            ["kubectl", *arguments], capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{shown}: no answer within {seconds:g} s") from None
    if done.returncode not in accept:
        raise Failed(f"{shown}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


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


def overlay_with_image(root: Path, overlay: str, image: str, directory: Path) -> Path:
    """`directory` as an overlay of k8s/overlays/`overlay` in which our image is `image`."""
    name, _, tag = image.rpartition(":")
    base = os.path.relpath(root / "k8s" / "overlays" / overlay, directory.resolve())
    directory.joinpath("kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n"
        "kind: Kustomization\n"
        f"resources: [{json.dumps(base)}]\n"
        f"images: [{{name: peregrine, newName: {json.dumps(name)}, newTag: {json.dumps(tag)}}}]\n"
    )
    return directory
