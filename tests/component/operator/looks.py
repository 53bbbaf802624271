"""Tool pools looked at by a clock of the test's, through everything but the loop and the watches.

looks = Looks(api, kubernetes, prometheus)
await looks.look()        # five seconds pass, one round; the cluster obeys at once
await looks.restart()     # the process that goes on knows only what the API server has
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from peregrine_operator import view
from peregrine_operator.kubernetes import Key, Kubernetes
from peregrine_operator.metrics import Metrics
from peregrine_operator.pools import Pools
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.signals import QUERIES
from peregrine_operator.view import Object, View
from peregrine_operator.workloads import Workloads
from peregrine_operator.writing import Event, Writer
from tests.component.operator.fake_prometheus import FakePrometheus, Vector
from tests.support.kubernetes import ApiServer

POOL = Key("ToolPool", "one", "tools")
LOOK = 5.0


class Teller(Writer):
    """Keeps the Events instead of posting them."""

    def __init__(self, *, kubernetes: Kubernetes, view: View, metrics: Metrics) -> None:
        super().__init__(kubernetes=kubernetes, view=view, metrics=metrics, instance="test")
        self.told: list[tuple[Key, Event]] = []

    def tell(self, one: Object, event: Event) -> None:
        self.told.append((one.key, event))


class Looks:
    """`replicas` is what the Deployment `tools` had after each look."""

    def __init__(self, api: ApiServer, kubernetes: Kubernetes, prometheus: Prometheus) -> None:
        self.now = 1_800_000_000.0
        self.api = api
        self.replicas: list[int] = []
        self._kubernetes = kubernetes
        self._prometheus = prometheus
        self._begin()

    def _begin(self) -> None:
        self.view = View()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.writer = Teller(kubernetes=self._kubernetes, view=self.view, metrics=self.metrics)
        workloads = Workloads(kubernetes=self._kubernetes, port=50053, clock=lambda: self.now)
        self.pools = Pools(
            view=self.view,
            workloads=workloads,
            prometheus=self._prometheus,
            writer=self.writer,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def restart(self) -> None:
        """At any moment: nothing that the process knew is left."""
        self._begin()

    async def look(self, seconds: float = LOOK, *, deployments: Iterable[str] = ("tools",)) -> None:
        self.now += seconds
        for (resource, _, _), stored in self.api.objects.items():
            if resource.plural == "toolpools" and not stored.deleted:
                self.view.put(view.read("ToolPool", stored.raw))
        await self.pools.look_at_all()
        for name in deployments:
            self.api.obey(name)
        if "tools" in deployments:
            self.replicas.append(self.api.replicas("tools"))

    async def looks(self, count: int, seconds: float = LOOK) -> None:
        for _ in range(count):
            await self.look(seconds)

    # ---- What is to be seen ----

    def status(self, key: Key = POOL) -> dict[str, Any]:
        found: dict[str, Any] = self.api.kept(key).get("status") or {}
        return found

    def condition(self, name: str, key: Key = POOL) -> tuple[str, str, str]:
        """Status, reason and message; empty where there is none."""
        for each in self.status(key).get("conditions", ()):
            if each["type"] == name:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def events(self, reason: str, key: Key = POOL) -> list[str]:
        """What was told for a reason since the start or the last restart."""
        told = self.writer.told
        return [event.message for one, event in told if one == key and event.reason == reason]


def load(
    fake: FakePrometheus, *, rate: float, workers: int, service: float = 0.5, pool: str = "tools"
) -> None:
    """`rate` calls a second that take `service` seconds each; other pools stay as they are."""
    values = {
        **dict.fromkeys(QUERIES, 0.0),
        **dict.fromkeys(("demand_10s", "demand_15s", "demand_60s", "started_60s"), rate),
        **dict.fromkeys(("arrived_10s", "arrived_15s", "arrived_60s"), rate),
        "busy_5m": rate * 300 * service,
        "executions_5m": rate * 300,
        "inflight": rate * service,
        "workers": float(workers),
        "age": 2.0,
    }
    for name, value in values.items():
        put(fake, pool, name, [({"pool": pool}, value)])
    put(fake, pool, "waits_60s", [({"pool": pool, "le": edge}, rate) for edge in ("0.1", "+Inf")])


def put(fake: FakePrometheus, pool: str, name: str, series: Vector) -> None:
    """The answer of one query for one pool."""
    others = [each for each in fake.answers.get(QUERIES[name], []) if each[0].get("pool") != pool]
    fake.answers[QUERIES[name]] = others + list(series)


def forget(fake: FakePrometheus, pool: str) -> None:
    """Prometheus knows nothing of a pool any more."""
    for name in QUERIES:
        put(fake, pool, name, [])


def values(fake: FakePrometheus, pool: str, value: float, names: Iterable[str] = QUERIES) -> None:
    """Every answer for a pool has this value."""
    for name in names:
        series: list[tuple[Mapping[str, str], float]] = [
            (labels, value)
            for labels, _ in fake.answers[QUERIES[name]]
            if labels.get("pool") == pool
        ]
        put(fake, pool, name, series)
