"""Cache policies: given to the cache, tuned by what Prometheus says, held when it says nothing."""

import pytest

from peregrine.kit.errors import Unavailable
from peregrine_operator import cache_signals
from peregrine_operator.decisions import FINALIZER
from tests.component.operator.conftest import Start, policy
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.fakes import Caches
from tests.component.operator.minutes import NAMESPACE, POLICY, Minutes, changing
from tests.support.eventually import eventually
from tests.support.kubernetes import ApiServer


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
