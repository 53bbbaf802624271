"""Streams of what the autoscaler saw, recorded in the simulator, with what it decided.

`python -m tests.autoscaler.golden` records them anew, after a change of the control law that is
meant; the difference in the files says what it changes, look by look.
"""

import json
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.simulate.pool import workload, world
from benchmarks.simulate.pool.cases import need
from benchmarks.simulate.pool.contestants import Peregrine
from benchmarks.simulate.pool.prometheus import Fault
from benchmarks.simulate.pool.workload import Trace
from benchmarks.simulate.pool.world import Scenario

from peregrine_operator import autoscale, pool_state
from peregrine_operator.scaling import Cluster, Decision
from peregrine_operator.signals import NoData, Signals

FOLDER = Path(__file__).parent / "golden"


def _burst(now: float) -> float:
    return 120.0 if 100 <= now < 300 else 12.0


_BURST = Trace(name="golden burst", seconds=800, rate=_burst)
_LEVEL = Trace(name="golden level", seconds=700, rate=lambda _: 60.0)
STREAMS: dict[str, tuple[str, Scenario]] = {
    "burst": ("balanced", Scenario(name="golden burst", trace=_BURST, start=need(12))),
    "burst-latency": ("latency", Scenario(name="golden burst", trace=_BURST, start=need(12))),
    "outages": (
        "balanced",
        Scenario(
            name="golden level",
            trace=_LEVEL,
            start=need(60) + 4,
            faults=(
                Fault(kind="nan", start=100, end=130),
                Fault(kind="missing", start=200, end=240, part=0.4),
                Fault(kind="down", start=300, end=330),
            ),
        ),
    ),
}


class Recorder(Peregrine):
    """Notes what the decision function was given."""

    def __init__(self, profile: Any) -> None:
        super().__init__(profile)
        self.looks: list[dict[str, Any]] = []

    def decided(
        self, cluster: Cluster, sample: Signals | NoData, now: float, decision: Decision
    ) -> None:
        facts = asdict(cluster)
        del facts["pause"]
        kind = "signals" if isinstance(sample, Signals) else "no_data"
        self.looks.append(
            {"now": now, "cluster": facts, kind: asdict(sample), "decided": outcome(decision)}
        )


def outcome(decision: Decision) -> dict[str, Any]:
    return {
        "desired": decision.desired,
        "write": decision.write,
        "reason": decision.reason,
        "hold": decision.hold,
        "events": [event.reason for event in decision.events],
    }


def replay(
    name: str, restarts: Container[int] = ()
) -> Iterator[tuple[float, dict[str, Any], dict[str, Any]]]:
    """Each look's time, what was decided when it was recorded, and what is decided now; before the
    looks of `restarts` a new process reads the status."""
    profile, _ = STREAMS[name]
    pool = Peregrine(profile).pool  # type: ignore[arg-type]  # the names are written above
    state = None
    lines = (FOLDER / f"pool-{name}.jsonl").read_text(encoding="utf-8").splitlines()
    for place, line in enumerate(lines):
        look = json.loads(line)
        cluster = Cluster(**look["cluster"])
        if state is None or place in restarts:
            status = None if state is None else json.loads(json.dumps(state.to_status()))
            known = pool_state.from_status(status)
            state = pool_state.resume(known, replicas=cluster.replicas, now=look["now"])
        sample: Signals | NoData = (
            Signals(**look["signals"]) if "signals" in look else NoData(**look["no_data"])
        )
        decision = autoscale.decide(pool, state, cluster, sample, now=look["now"])
        state = decision.state
        yield look["now"], look["decided"], outcome(decision)


def record(name: str) -> str:
    profile, scenario = STREAMS[name]
    recorder = Recorder(profile)
    world.run(scenario, recorder, 1, workload.draw(scenario.trace, 1))
    return "".join(json.dumps(look, sort_keys=True) + "\n" for look in recorder.looks)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in STREAMS:
        (FOLDER / f"pool-{each}.jsonl").write_text(record(each), encoding="utf-8")
