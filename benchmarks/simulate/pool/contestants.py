"""Who sizes the pool: the operator's own function, and what people would use instead.

The operator is given here what Prometheus and the API server would give it, and its state goes
through its status as JSON at every look.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from benchmarks.simulate.pool import hpa
from benchmarks.simulate.pool.fleet import Worker
from benchmarks.simulate.pool.prometheus import Prometheus
from benchmarks.simulate.pool.workload import MEAN_SERVICE, Trace
from benchmarks.simulate.pool.world import CONCURRENCY, LEAST, MOST, POD_START, Seen
from peregrine_operator import autoscale, pool_state, signals, sizing, victims
from peregrine_operator.scaling import Cluster, Decision, Pool
from peregrine_operator.signals import Answered, NoData, Signals


def newest_first(seen: Seen, count: int, _: Callable[[Worker], int]) -> list[Worker]:
    """As a ReplicaSet chooses without costs: not ready, then the newest."""
    return sorted(seen.pods, key=lambda worker: (worker.ready, -worker.created))[:count]


@dataclass
class Peregrine:
    """`peregrine_operator.autoscale.decide`."""

    profile: Literal["balanced", "latency"] = "balanced"
    restarts: Sequence[float] = ()
    period: float = autoscale.LOOK
    offset: float = 0.0
    _status: dict[str, Any] = field(default_factory=dict)
    _running: bool = False

    def __post_init__(self) -> None:
        self.name = f"Peregrine, {self.profile}"
        self._restarts = list(self.restarts)
        self.pool = Pool(
            least=LEAST,
            most=MOST,
            concurrency=CONCURRENCY,
            profile=self.profile,
            mode="Direct",
            expected_service=MEAN_SERVICE,
        )

    def look(self, seen: Seen, prometheus: Prometheus, now: float) -> int | None:
        if self._restarts and now >= self._restarts[0]:
            self._restarts.pop(0)
            self._running = False
        state = pool_state.from_status(orjson.loads(orjson.dumps(self._status)))
        if not self._running or state is None:
            state = pool_state.resume(state, replicas=seen.replicas, now=now)
            self._running = True
        answers = Answered(prometheus.answers(now, self.pool.tuning.fast)).of("tools")
        sample = signals.read(answers, fast=self.pool.tuning.fast, workers=seen.measured)
        cluster = Cluster(
            replicas=seen.replicas,
            ready=seen.ready,
            draining=seen.draining,
            pending_since=seen.pending_since,
        )
        decision = autoscale.decide(self.pool, state, cluster, sample, now=now)
        self.decided(cluster, sample, now, decision)
        self._status = decision.state.to_status()
        return decision.write

    def decided(
        self, cluster: Cluster, sample: Signals | NoData, now: float, decision: Decision
    ) -> None:
        """For who wants to look over its shoulder."""

    def victims(self, seen: Seen, count: int, inflight: Callable[[Worker], int]) -> list[Worker]:
        pods = {str(worker.number): worker for worker in seen.pods}
        chosen = victims.choose(
            [
                victims.Worker(
                    name=name, ready=pod.ready, started=pod.created, inflight=inflight(pod)
                )
                for name, pod in pods.items()
            ],
            count,
        )
        return [pods[worker.name] for worker in chosen]


@dataclass(kw_only=True)
class Hpa:
    """A HorizontalPodAutoscaler on one metric of the pool, for a target utilisation of its slots.

    `busy`: slots in use, of each pod. `load`: in flight and queued, all together (AverageValue).
    `rate`: calls per second of the last minute (AverageValue; it is told how long a call takes).
    `null_is_zero`: as KEDA's Prometheus scaler has it by default, which feeds such an HPA: a query
    without a result, or with NaN, counts as 0.
    """

    name: str
    metric: Literal["busy", "load", "rate"]
    utilisation: float
    behavior: hpa.Behavior = hpa.DEFAULT
    null_is_zero: bool = False
    period: float = hpa.PERIOD
    offset: float = 0.0
    victims = staticmethod(newest_first)

    def __post_init__(self) -> None:
        self._autoscaler = hpa.Autoscaler(least=LEAST, most=MOST, behavior=self.behavior)

    def look(self, seen: Seen, prometheus: Prometheus, now: float) -> int | None:
        try:
            wanted = self._wanted(seen, prometheus, now)
        except hpa.MetricFailed:
            return None
        return self._autoscaler.scale(wanted, replicas=seen.replicas, now=now)

    def _wanted(self, seen: Seen, prometheus: Prometheus, now: float) -> int:
        target = self.utilisation * CONCURRENCY
        if self.metric == "busy":
            values = prometheus.busy_by_worker(now)
            running = [worker for worker in seen.pods if worker.ready]
            known = {
                worker.number: values[worker.number]
                for worker in running
                if worker.number in values
            }
            return hpa.by_pods(
                known,
                missing=len(running) - len(known),
                pending=len(seen.pods) - len(running),
                replicas=seen.replicas,
                target=target,
            )
        value = prometheus.load(now) if self.metric == "load" else prometheus.call_rate(now)
        if value is None or math.isnan(value):
            if not self.null_is_zero:
                raise hpa.MetricFailed("no value")
            value = 0.0
        if self.metric == "rate":
            target /= MEAN_SERVICE
        return hpa.by_average(value, replicas=seen.replicas, target=target)


AGGRESSIVE = hpa.Behavior(up=(hpa.Policy("Percent", 900, 15.0),))
"""The best that hand-tuning found: tenfold in 15 seconds."""


@dataclass
class Oracle:
    """Knows the rate at which calls will arrive when the pods that it asks for now are ready, and
    takes them away at once."""

    trace: Trace
    name: str = "oracle"
    period: float = 1.0
    offset: float = 0.0
    victims = staticmethod(newest_first)

    def look(self, seen: Seen, prometheus: Prometheus, now: float) -> int | None:
        ahead = POD_START * 1.1 + self.period
        rate = max(self.trace.rate(moment) for moment in (now, now + ahead / 2, now + ahead))
        offered = rate * self.trace.service(now)
        return min(max(sizing.replicas(offered, concurrency=CONCURRENCY), LEAST), MOST)
