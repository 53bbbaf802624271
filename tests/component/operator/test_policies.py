"""Cache policies: given to the cache, tuned by what Prometheus says, held when it says nothing."""

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.cache.v1 import cache_pb2_grpc
from peregrine.client import CacheClient
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import Unavailable
from peregrine_operator import cache_signals, view
from peregrine_operator.decisions import FINALIZER
from peregrine_operator.kubernetes import Key, Kubernetes
from peregrine_operator.metrics import Metrics
from peregrine_operator.policies import Policies
from peregrine_operator.prometheus import Prometheus
from peregrine_operator.view import View
from peregrine_operator.writing import Writer
from tests.component.operator.conftest import Start, policy
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.fakes import Caches
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import serving
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


async def test_a_policy_is_applied_and_says_so(
    api: ApiServer, caches: Caches, start: Start
) -> None:
    await api.apply(policy(ttl="30m", maxStaleFraction=0.02))
    async with start():
        await eventually(lambda: api.ready(POLICY)[0] == "True")
    kept = caches.policies[NAMESPACE]
    assert kept.ttl.seconds == 1800
    assert kept.max_stale_fraction == 0.02
    assert api.kept(POLICY)["status"]["ttl"] == "30m"
    assert api.kept(POLICY)["metadata"]["finalizers"] == [FINALIZER]


async def test_without_prometheus_it_stands_as_it_is_and_says_so(
    api: ApiServer, caches: Caches, start: Start
) -> None:
    await api.apply(policy(ttl="30m", mode="Active"))
    async with start():
        await eventually(lambda: api.ready(POLICY) == ("True", "AppliedNotTuned"))
    assert caches.policies[NAMESPACE].ttl.seconds == 1800


async def test_a_cache_that_is_away_is_told_and_tried_again(
    api: ApiServer, caches: Caches, start: Start
) -> None:
    await api.apply(policy(ttl="30m"))
    async with start():
        await eventually(lambda: api.ready(POLICY)[0] == "True")
        caches.failing = Unavailable("not now", reason="POSTGRES_UNAVAILABLE")
        await api.remove(POLICY)
        await eventually(lambda: api.ready(POLICY) == ("False", "PostgresUnavailable"), timeout=20)
        assert "not deleted yet" in api.message(POLICY)
        caches.failing = None
        await eventually(lambda: api.kept(POLICY) is None, timeout=20)
    assert not caches.policies[NAMESPACE].HasField("ttl")


class Minutes:
    """Policies of one resource, looked at minute by minute by a clock of the test's."""

    def __init__(
        self, api: ApiServer, kubernetes: Kubernetes, cache: CacheClient, prometheus: Prometheus
    ) -> None:
        self.now = 1_800_000_000.0
        self.api = api
        self.view = View()
        metrics = Metrics(CollectorRegistry())
        writer = Writer(kubernetes=kubernetes, view=self.view, metrics=metrics, instance="test")
        self.parts = {
            "view": self.view,
            "cache": cache,
            "prometheus": prometheus,
            "writer": writer,
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


@pytest.fixture
async def minutes(
    api: ApiServer, caches: Caches, metrics: FakePrometheus
) -> AsyncIterator[Minutes]:
    add = cache_pb2_grpc.add_CacheServiceServicer_to_server
    async with (
        serving([(add, caches)]) as address,
        Kubernetes(login=api.login, metrics=Metrics(CollectorRegistry())) as kubernetes,
        CacheClient(address) as cache,
        Prometheus(metrics.url, timeout=30.0) as asked,
    ):
        with context.with_identity(Identity("default", "operator")):
            yield Minutes(api, kubernetes, cache, asked)


async def test_an_active_policy_moves_and_says_why_and_a_restart_forgets_nothing(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    spec = {"ttl": "30m", "minTtl": "5s", "maxTtl": "24h", "mode": "Active"}
    await api.apply(policy(**spec, maxStaleFraction=0.02))
    reasons = []
    for _ in range(8):
        changing(metrics, at=minutes.now + 60.0, changes=60.0)
        reasons.append(await minutes.minute())
        minutes.restart()
    assert "ShortenedAtOnce" in reasons
    tuned = caches.policies[NAMESPACE].ttl.ToNanoseconds() / 1e9
    assert tuned < 60
    kept = api.kept(POLICY)["status"]
    assert kept["lastDecision"]["message"]
    assert kept["tuner"]["ttl"] == tuned


async def test_an_observed_policy_only_says_what_it_would_do(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="30m", maxStaleFraction=0.02))
    for _ in range(8):
        changing(metrics, at=minutes.now + 60.0, changes=60.0)
        await minutes.minute()
    assert caches.policies[NAMESPACE].ttl.seconds == 1800
    assert api.kept(POLICY)["status"]["recommendedTtl"] != "30m"


@pytest.mark.parametrize("what", ["down", "empty", "nan", "stale"])
async def test_bad_data_changes_no_time_to_live(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes, what: str
) -> None:
    await api.apply(policy(ttl="30m", mode="Active"))
    for _ in range(30):
        changing(metrics, at=minutes.now + 60.0, changes=60.0)
        if what == "down":
            metrics.status = 503
        elif what == "empty":
            metrics.answers = {}
        elif what == "nan":
            for query in metrics.answers:
                metrics.answers[query] = [
                    (labels, float("nan")) for labels, _ in metrics.answers[query]
                ]
        else:
            newest = cache_signals.QUERIES["newest"]
            metrics.answers[newest] = [({"ns": NAMESPACE}, minutes.now - 600.0)]
        assert await minutes.minute() == "HeldNoData"
    assert caches.policies[NAMESPACE].ttl.seconds == 1800


async def test_a_cache_that_is_away_from_the_start_is_told(
    api: ApiServer, caches: Caches, start: Start
) -> None:
    caches.failing = Unavailable("not now", reason="POSTGRES_UNAVAILABLE")
    await api.apply(policy(ttl="30m"))
    async with start():
        await eventually(lambda: api.ready(POLICY) == ("False", "PostgresUnavailable"))
        caches.failing = None
        await eventually(lambda: api.ready(POLICY)[0] == "True", timeout=20)
