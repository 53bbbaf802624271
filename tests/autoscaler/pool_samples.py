"""Answers of Prometheus and facts of the cluster for the tests of the pool's autoscaler."""

from collections.abc import Mapping
from typing import Any

from peregrine_operator.autoscale import decide
from peregrine_operator.pool_state import State, resume
from peregrine_operator.scaling import Cluster, Decision, Pool
from peregrine_operator.signals import Answer, NoData, Series, Signals

DIRECT = Pool(least=2, most=60, concurrency=4, mode="Direct", expected_service=0.5)
LOOK = 5.0
NOW = 1_000_000.0


def vector(value: float, **labels: str) -> list[Series]:
    return [Series({"pool": "tools", **labels}, value)]


def answers(**changes: Answer) -> dict[str, Answer]:
    """Of a healthy Prometheus: 10 workers, 64 calls a second of half a second each."""
    good: dict[str, Answer] = {
        **{f"demand_{window}": vector(64.0) for window in ("10s", "15s", "60s")},
        **{f"arrived_{window}": vector(70.0) for window in ("10s", "15s", "60s")},
        "shed_60s": vector(0.0),
        "started_60s": vector(64.0),
        "busy_5m": vector(9600.0),
        "executions_5m": vector(19200.0),
        "queued": vector(0.0),
        "waiting": vector(0.0),
        "inflight": vector(32.0),
        "workers": vector(10.0),
        "age": vector(4.0),
        "waits_60s": [
            *vector(57.6, le="0.1"),
            *vector(64.0, le="0.25"),
            *vector(64.0, le="+Inf"),
        ],
    }
    return {**good, **changes}


def signals(demand: float = 64.0, **changes: Any) -> Signals:
    """As `read` makes them, at a steady load."""
    good: dict[str, Any] = {
        "demand_fast": demand,
        "demand_stable": demand,
        "started_stable": demand,
        "service": 0.5,
        "queued": 0.0,
        "inflight": demand / 2,
        "wait_p95": 0.01,
        "coverage": 1.0,
    }
    return Signals(**{**good, **changes})


class Replay:
    """A pool over time: the cluster does at once what is written."""

    def __init__(self, replicas: int = 10, pool: Pool = DIRECT, now: float = NOW) -> None:
        self.pool = pool
        self.now = now
        self.replicas = replicas
        self.cluster: Mapping[str, Any] = {}
        self.state: State = resume(None, replicas=replicas, now=now)
        self.writes: list[tuple[float, int]] = []
        self.last: Decision

    def look(self, sample: Signals | NoData, **cluster: Any) -> Decision:
        facts = {"replicas": self.replicas, "ready": self.replicas, **self.cluster, **cluster}
        self.last = decide(self.pool, self.state, Cluster(**facts), sample, now=self.now)
        self.state = self.last.state
        if self.last.write is not None:
            self.replicas = self.last.write
            self.writes.append((self.now - NOW, self.last.write))
        self.now += LOOK
        return self.last

    def looks(self, seconds: float, sample: Signals | NoData, **cluster: Any) -> Decision:
        for _ in range(int(seconds / LOOK)):
            self.look(sample, **cluster)
        return self.last
