"""Tool pools and cache policies in a real cluster: what the operator does, and that it says so.

Nothing here goes by the clock of this machine but bounds, which are generous: what is looked at is
what the API server holds, and what callers inside the cluster counted.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.callers import Callers
from tests.cluster.kubectl import NAMESPACE, Failed, asked, kubectl, until

POOL = "tools"
WINDOW = 300.0
GROWS_SECONDS = 240.0
# The window, a minute of panic, and a minute for each step down.
SHRINKS_SECONDS = 1500.0
TUNED_SECONDS = 1200.0
BURST_SECONDS = 75.0
SAYS_SECONDS = 120.0

STRANGERS = """
apiVersion: peregrine.dev/v1alpha1
kind: ToolPool
metadata: {name: nobody, namespace: peregrine}
spec: {deployment: nobody, minReplicas: 1, maxReplicas: 5, mode: Direct}
---
apiVersion: peregrine.dev/v1alpha1
kind: ToolPool
metadata: {name: no-workers, namespace: peregrine}
spec: {deployment: crowd, minReplicas: 1, maxReplicas: 5, mode: Direct}
"""
REFUSED = """
apiVersion: peregrine.dev/v1alpha1
kind: ToolPool
metadata: {name: upside-down, namespace: peregrine}
spec: {deployment: tools, minReplicas: 5, maxReplicas: 2}
"""
SCALER = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: another-scaler, namespace: peregrine}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: tools}
  minReplicas: 1
  maxReplicas: 9
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 99}}
"""


def pool(name: str = POOL) -> dict[str, Any]:
    found: dict[str, Any] = asked("--namespace", NAMESPACE, "get", "toolpool", name)
    return found


def replicas(deployment: str = POOL) -> int:
    found = asked("--namespace", NAMESPACE, "get", "deployment", deployment)
    return int(found["spec"].get("replicas", 1))


def ready_replicas(deployment: str = POOL) -> int:
    found = asked("--namespace", NAMESPACE, "get", "deployment", deployment)
    return int(found["status"].get("readyReplicas", 0))


def condition(of: dict[str, Any], kind: str) -> dict[str, Any]:
    for each in of.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return dict(each)
    return {}


def events(reason: str, *, of: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    selector = f"reason={reason},involvedObject.name={of}"
    listed = asked("--namespace", namespace, "get", "events", "--field-selector", selector)
    return list(listed["items"])


def grow(crowd: Callers) -> str:
    """Load on the edge and on the workers: more of them, and no call fails."""
    before = _one()
    let_go()
    crowd.forget()
    crowd.rates(runs=3.0, calls=3.0, reads=2.0)
    more, seconds = until(
        lambda: (now := ready_replicas()) > before and now,
        seconds=GROWS_SECONDS,
        what="more workers are ready",
        interval=1,
    )
    until(lambda: events("ScaledUp", of=POOL), seconds=30, what="an Event says so", interval=1)
    return f"{before} to {more} workers ready {seconds:.0f} s after the load; {crowd.finished()}"


def kill_the_operator() -> str:
    """It comes back and goes on from what the status says."""
    before = pool()["status"].get("autoscaler")
    if not before:
        raise Failed("the status of the pool has no state to go on from")
    old = _operator()
    kubectl(
        *("--namespace", NAMESPACE, "delete", "pod", old, "--force", "--grace-period=0"),
        "--wait=false",
    )
    started = time.monotonic()
    new, _ = until(
        lambda: (name := _operator()) != old and name,
        seconds=120,
        what="another operator",
    )
    until(
        lambda: kubectl(
            *("--namespace", NAMESPACE, "wait", "--for=condition=Ready", f"pod/{new}"),
            "--timeout=120s",
        ),
        seconds=180,
        what="it is ready",
    )
    wrote = before.get("good_at", 0)
    after, _ = until(
        lambda: (
            (state := pool()["status"].get("autoscaler"))
            and state.get("good_at", 0) > wrote
            and state
        ),
        seconds=180,
        what="it wrote down what it goes by",
        interval=1,
    )
    kept = {start for start, _ in before.get("window", ())} & {
        start for start, _ in after.get("window", ())
    }
    if before.get("window") and not kept:
        raise Failed(f"it forgot what it had recommended: {before} became {after}")
    return (
        f"another one works {time.monotonic() - started:.0f} s later, with {len(kept)} of "
        f"{len(before.get('window', ()))} recommendations of the one that was killed"
    )


def burst(crowd: Callers, rate: float) -> str:
    """Twelve times the tool calls, to `rate` a second, on one worker: every run gets its places.

    A run asks for three calls. What a worker refuses meanwhile is asked for again by the
    orchestrator as long as the run has time, so a call that failed is a run that failed.
    """
    _one()
    crowd.forget()
    crowd.rates(runs=rate / 36, calls=0, reads=1.0)
    time.sleep(20)  # the load of before
    let_go()
    crowd.rates(runs=rate / 3)
    began = time.monotonic()
    seen: list[tuple[float, int]] = []

    def enough() -> bool:
        seen.append((time.monotonic() - began, replicas()))
        return time.monotonic() - began >= BURST_SECONDS

    until(enough, seconds=2 * BURST_SECONDS, what="the burst is over", interval=1)
    crowd.rates(runs=1.0)
    most = max(number for _, number in seen)
    first = next((at for at, number in seen if number > 1), None)
    if first is None:
        raise Failed(f"the pool stayed as it was: {seen}")
    crowd.quiet()
    slowest = crowd.counts()["slowest"].get("runs")
    return (
        f"{rate / 12:g} to {rate:g} calls a second: 1 to {most} workers, "
        f"the first write after {first:.0f} s, the slowest run {slowest} s; "
        f"{crowd.finished(at_least=int(rate * 10))}"
    )


def _one() -> int:
    """One worker, whatever there were before; until `let_go`."""
    _fix(1)
    until(lambda: ready_replicas() == 1, seconds=120, what="one worker is left", interval=1)
    return 1


def obey_somebody(crowd: Callers) -> str:
    """Who scales by hand is obeyed for five minutes, though the load wants something else."""
    _one()
    let_go()
    crowd.forget()
    crowd.rates(runs=3.0, calls=3.0, reads=2.0)
    time.sleep(30)  # the step up is whole
    until(_steady, seconds=240, what="the pool is as its load wants it", interval=2)
    before, told = replicas(), len(events("ExternalOverride", of=POOL))
    wanted = before - 1
    kubectl("--namespace", NAMESPACE, "scale", f"deployment/{POOL}", f"--replicas={wanted}")
    began = time.monotonic()
    _says(POOL, "ExternalOverride", "True", "ReplicasChanged", seconds=30)
    noticed = time.monotonic() - began
    if len(events("ExternalOverride", of=POOL)) != told + 1:
        raise Failed("no Event says that somebody scaled")

    def over() -> bool:
        held = condition(pool(), "ExternalOverride").get("status") == "True"
        if held and replicas() != wanted:
            raise Overruled(f"{replicas()} replicas while {wanted} were to be held")
        return not held

    try:
        _, held = until(over, seconds=WINDOW + 60, what="the hold is over", interval=2)
    except Overruled as problem:
        raise Failed(str(problem)) from None
    if held < WINDOW - 15:
        raise Failed(f"held for {held:.0f} s only")
    until(
        lambda: pool()["status"]["lastDecision"]["reason"] != "ExternalOverride",
        seconds=60,
        what="the pool is looked after again",
        interval=1,
    )
    return (
        f"{before} to {wanted} by hand, noticed after {noticed:.0f} s, held for "
        f"{noticed + held:.0f} s; {crowd.finished()}"
    )


class Overruled(Exception):
    """What somebody wanted was undone."""


def _steady() -> bool:
    status = pool()["status"]
    now = replicas()
    return now > 1 and status["desiredReplicas"] == now == ready_replicas()


def shrink(crowd: Callers) -> str:
    """Less load: fewer workers, not before the window is over, and no call fails."""
    crowd.forget()
    high = replicas()
    crowd.rates(runs=0.2, calls=0.2, reads=2.0)

    def lower() -> bool:
        return replicas() <= 2

    _, seconds = until(lower, seconds=SHRINKS_SECONDS, what="fewer workers", interval=2)
    if not events("ScaledDown", of=POOL):
        raise Failed("no Event says that the pool was lowered")
    time.sleep(15)  # the last to go still drains
    crowd.quiet()
    return f"{high} to {replicas()} workers in {seconds:.0f} s; {crowd.finished(at_least=20)}"


def tuned() -> str:
    """The time to live of what is asked for again and never changes got longer, and says why."""

    def moved() -> list[dict[str, Any]]:
        return events("Lengthened", of="shelf", namespace="default")

    found, seconds = until(moved, seconds=TUNED_SECONDS, what="a time to live moves", interval=3)
    policy = asked("--namespace", "default", "get", "cachepolicy", "shelf")
    said = found[-1]["message"]
    return f"after another {seconds:.0f} s: {said}; now {policy['status'].get('ttl')}"


def refuse_upside_down() -> str:
    said = kubectl("create", "--filename", "-", accept=(1,), given=REFUSED, complaints=True)
    if "minReplicas must not be more" not in said:
        raise Failed(f"a pool with more at least than at most: {said}")
    return said.strip().splitlines()[-1][-120:]


def say_what_is_wrong() -> str:
    """Pools that cannot be scaled say why, and nothing is."""
    kubectl("apply", "--filename", "-", given=STRANGERS)
    try:
        seen = [
            _says("nobody", "Ready", "False", "DeploymentMissing"),
            _says("no-workers", "MetricsAvailable", "False", "NoSeries"),
        ]
        kubectl("apply", "--filename", "-", given=SCALER)
        try:
            seen.append(_says(POOL, "Conflicted", "True", "Conflicted"))
            before, wanted = replicas(), pool()["status"]["desiredReplicas"]
            time.sleep(15)  # three more looks
            if (after := replicas()) != before:
                raise Failed(f"scaled nevertheless: {before} became {after}")
            seen[-1] += f" ({wanted} wanted, {after} left as they are)"
        finally:
            kubectl("delete", "--filename", "-", given=SCALER)
        _says(POOL, "Conflicted", "False", "NotConflicted")
        if (after := replicas("crowd")) != 1:
            raise Failed(f"scaled without data: 1 became {after}")
    finally:
        kubectl("delete", "--filename", "-", given=STRANGERS)
    return "; ".join(seen)


def live_without_prometheus() -> str:
    """Without data the pool stays as it is, and the operator stays up."""
    before, operator = replicas(), _operator()
    kubectl("--namespace", NAMESPACE, "scale", "deployment/prometheus", "--replicas=0")
    try:
        said = _says(POOL, "MetricsAvailable", "False", "QueryFailed")
        time.sleep(15)  # three more looks without data
        if (after := replicas()) != before:
            raise Failed(f"scaled without data: {before} became {after}")
    finally:
        kubectl("--namespace", NAMESPACE, "scale", "deployment/prometheus", "--replicas=1")
    _says(POOL, "MetricsAvailable", "True", "Read", seconds=240)
    if _operator() != operator:
        raise Failed("the operator did not stay up")
    return said


def _says(name: str, kind: str, status: str, reason: str, *, seconds: float = SAYS_SECONDS) -> str:
    def said() -> dict[str, Any]:
        found = condition(pool(name), kind)
        if (found.get("status"), found.get("reason")) != (status, reason):
            raise Failed(f"{name}: {found}")
        return found

    found, _ = until(said, seconds=seconds, what=f"{kind}={status} {reason}", interval=1)
    return f"{name} {kind}={status} {reason} {found.get('message', '')[:80]!r}"


def _operator() -> str:
    listed = asked(
        "--namespace", NAMESPACE, "get", "pods", "--selector", "app.kubernetes.io/name=operator"
    )
    names = [
        each["metadata"]["name"]
        for each in listed["items"]
        if "deletionTimestamp" not in each["metadata"]
    ]
    return str(names[0]) if len(names) == 1 else ""


# Scale-ins.


def scale_in(crowd: Callers, times: int, say: Callable[[str], None]) -> str:
    """The operator takes one worker away after another, `times` in all, under steady load."""
    most, least = 7, 2
    crowd.forget()
    done, waves = 0, 0
    _fix(most)
    crowd.rates(runs=2.0, calls=3.0, reads=0.0)
    while done < times:
        until(lambda: ready_replicas() >= most, seconds=300, what=f"{most} workers", interval=0.5)
        for wanted in range(most - 1, least - 1, -1):
            _fix(wanted)
            done += 1
            if done == times:
                break
        waves += 1
        say(f"       {done} scale-ins: {json.dumps(crowd.counts()['counts'])}")
        crowd.finished(at_least=0)
        if done < times:
            _fix(most)
    time.sleep(15)  # the last to go still drains
    crowd.quiet()
    let_go()
    return f"{done} scale-ins by the operator: {crowd.finished(at_least=50)}"


def _fix(wanted: int) -> None:
    """By the annotation that pauses a pool at a number; the operator chooses who goes."""
    annotation = f"peregrine.dev/paused-replicas={wanted}"
    kubectl("--namespace", NAMESPACE, "annotate", "--overwrite", f"toolpool/{POOL}", annotation)
    until(lambda: replicas() == wanted, seconds=60, what=f"{wanted} replicas", interval=0.3)


def let_go() -> None:
    kubectl(
        "--namespace", NAMESPACE, "annotate", f"toolpool/{POOL}", "peregrine.dev/paused-replicas-"
    )
