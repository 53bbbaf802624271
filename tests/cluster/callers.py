"""The crowd (`crowd/crowd.py`) as seen from here: its rates, and what it counted."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.kubectl import NAMESPACE, Failed, asked, forwarded, kubectl, until

DIRECTORY = Path(__file__).resolve().parent / "crowd"
LOAD = DIRECTORY / "load.yaml"
PORT = 8099
_WORKERS = "app.kubernetes.io/name=tools"


@dataclass(frozen=True)
class Callers:
    """Calls go on while this is open, at the rates that were last set."""

    port: int

    def rates(self, **rates: float) -> None:
        """Runs at the edge, calls of workers and reads of what is cached, each a second."""
        self._asked("/load", rates)

    def forget(self) -> None:
        self._asked("/forget", {})

    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self._asked("/counts")
        return found

    def finished(self, *, at_least: int = 1) -> str:
        """Says what was seen; raises Failed when a call failed, or nearly none was made."""
        seen = self.counts()
        counts = seen["counts"]
        wrong = {name: count for name, count in counts.items() if " failed: " in name}
        if wrong or seen["told_twice"]:
            raise Failed(
                f"{wrong or 'no call failed'}, {seen['told_twice']} changes made twice;"
                f" of {counts}; the last: {seen['failures'][-10:]}"
            )
        runs, calls, reads = (counts.get(f"{kind} ok", 0) for kind in ("runs", "calls", "reads"))
        if runs + calls < at_least:
            raise Failed(f"only {runs} runs and {calls} calls were made: {counts}")
        waited = counts.get("calls refused", 0)
        return (
            f"{runs} runs of 3 tool calls, {calls} calls of 2 and {reads} of 8 tools at the "
            f"workers, 0 failed, {seen['notes']} changes each made once, {waited} came back later"
        )

    def quiet(self) -> None:
        """Waits until nothing is under way any more."""
        self.rates(runs=0, calls=0, reads=0)

        def ended() -> bool:
            counts = self.counts()["counts"]
            return all(
                counts.get(f"{kind} begun", 0)
                == counts.get(f"{kind} ok", 0) + counts.get(f"{kind} failed", 0)
                for kind in ("runs", "calls", "reads")
            )

        until(ended, seconds=120, what="what the crowd began has ended", interval=0.5)

    def _asked(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError) as error:
            raise Failed(f"the crowd does not answer: {error}") from None


@contextmanager
def callers() -> Iterator[Callers]:
    with forwarded(NAMESPACE, "deployment/crowd", PORT) as port:
        crowd = Callers(port)
        try:
            yield crowd
        finally:
            crowd.rates(runs=0, calls=0, reads=0)


def install(overlay: Path) -> str:
    """The crowd beside what is installed, and what it asks for."""
    kubectl("apply", "--kustomize", str(overlay))
    for name in ("crowd", "tools"):
        kubectl(
            *("--namespace", NAMESPACE, "rollout", "status", f"deployment/{name}"),
            "--timeout=300s",
            seconds=310,
        )
    # Workers of before still drain; they may not call the crowd.
    until(_no_pod_ends, seconds=120, what="the workers of before are gone", interval=1)
    kubectl("apply", "--filename", str(LOAD))
    seen, seconds = until(_ready, seconds=120, what="tools and agent of the crowd are ready")
    return f"{seen} resources ready after {seconds:.1f} s"


def _no_pod_ends() -> bool:
    listed = asked("--namespace", NAMESPACE, "get", "pods", "--selector", _WORKERS)["items"]
    return not any("deletionTimestamp" in each["metadata"] for each in listed)


def _ready() -> int:
    listed = kubectl("get", "--filename", str(LOAD), "--output", "json")
    found = json.loads(listed)["items"]
    for each in found:
        conditions = {
            condition["type"]: condition
            for condition in each.get("status", {}).get("conditions", ())
        }
        ready = conditions.get("Ready", {})
        # A pool without load, and a policy without requests, have nothing to go by yet.
        if each["kind"] in ("Agent", "Tool") and ready.get("status") != "True":
            raise Failed(f"{each['kind']} {each['metadata']['name']}: {ready}")
    return len(found)
