"""Cache policies looked at minute by minute, by a clock of the test's.

minutes = Minutes(api, kubernetes, cache, prometheus)
changing(metrics, at=minutes.now + 60.0, changes=60.0)
await minutes.minute()        # the reason of the decision
"""

from prometheus_client import CollectorRegistry

from peregrine.client import CacheClient
from peregrine_operator import cache_signals, view
from peregrine_operator.kubernetes import Key, Kubernetes
from peregrine_operator.metrics import Metrics
from peregrine_operator.policies import Policies
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.view import View
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.looks import Teller
from tests.support.kubernetes import ApiServer

POLICY = Key("CachePolicy", "one", "lookup")
NAMESPACE = "tool:lookup"


def changing(fake: FakePrometheus, *, at: float, changes: float, requests: float = 500.0) -> None:
    """A minute of a namespace of which `changes` of a hundred comparisons differ."""
    ns = {"ns": NAMESPACE}
    ghosts = [5.0 * 2**place for place in range(15)]
    fake.answers = {
        cache_signals.QUERIES["ghost_requests"]: [(ns, requests)],
        cache_signals.QUERIES["ghost_misses"]: [
            ({**ns, "k": f"{k:.0f}"}, requests / (1 + k / 60)) for k in ghosts
        ],
        cache_signals.QUERIES["ghost_ages"]: [
            ({**ns, "k": f"{k:.0f}", "le": le}, requests - requests / (1 + k / 60))
            for k in ghosts
            for le in ("56.5685424949238", "+Inf")
        ],
        cache_signals.QUERIES["compared"]: [
            ({**ns, "changed": changed, "le": le}, count)
            for changed, count in (("1", changes), ("0", 100 - changes))
            for le in ("56.5685424949238", "+Inf")
        ],
        cache_signals.QUERIES["compared_sum"]: [
            ({**ns, "changed": "1"}, changes * 40.0),
            ({**ns, "changed": "0"}, (100 - changes) * 40.0),
        ],
        cache_signals.QUERIES["cost_sum"]: [(ns, 50.0)],
        cache_signals.QUERIES["cost_count"]: [(ns, 100.0)],
        cache_signals.QUERIES["requests"]: [(ns, requests * 16)],
        cache_signals.QUERIES["memory"]: [({}, 0.5)],
        cache_signals.QUERIES["newest"]: [(ns, at - 1.0)],
    }


class Minutes:
    """Policies of one resource, looked at minute by minute by a clock of the test's."""

    def __init__(
        self, api: ApiServer, kubernetes: Kubernetes, cache: CacheClient, prometheus: Prometheus
    ) -> None:
        self.now = 1_800_000_000.0
        self.api = api
        self.view = View()
        metrics = Metrics(CollectorRegistry())
        self.writer = Teller(kubernetes=kubernetes, view=self.view, metrics=metrics)
        self.parts = {
            "view": self.view,
            "cache": cache,
            "prometheus": prometheus,
            "writer": self.writer,
            "metrics": metrics,
            "clock": lambda: self.now,
        }
        self.policies = Policies(**self.parts)  # type: ignore[arg-type]

    def restart(self) -> None:
        self.policies = Policies(**self.parts)  # type: ignore[arg-type]

    async def minute(self) -> str:
        """The reason of the decision."""
        self.now += 60.0
        self.view.put(view.read("CachePolicy", self.api.kept(POLICY)))
        await self.policies.look_at_all()
        status = self.api.kept(POLICY).get("status", {})
        return str(status.get("lastDecision", {}).get("reason"))

    def events(self) -> list[str]:
        """The reasons of what was told, in order."""
        return [event.reason for _, event in self.writer.told]
