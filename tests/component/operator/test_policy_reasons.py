"""Every reason that a policy may give, through the API server and a cache."""

from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from peregrine_operator import view
from peregrine_operator.kubernetes import Key
from tests.component.operator.conftest import policy
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.fakes import Caches
from tests.component.operator.minutes import NAMESPACE, POLICY, Minutes, changing
from tests.support.kubernetes import ApiServer

ACTIVE: dict[str, Any] = {"minTtl": "5s", "maxTtl": "24h", "mode": "Active"}


def ttl(caches: Caches) -> float:
    return caches.policies[NAMESPACE].ttl.ToNanoseconds() / 1e9


async def after(minutes: Minutes, metrics: FakePrometheus, count: int, **world: float) -> list[str]:
    """The reasons of so many minutes in a world."""
    reasons = []
    for _ in range(count):
        changing(metrics, **{"at": minutes.now + 60.0, "changes": 0.0, **world})
        reasons.append(await minutes.minute())
    return reasons


async def test_what_never_changes_is_kept_longer_by_one_step_and_an_event_says_why(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="5s", **ACTIVE))
    reasons, steps = [], []
    for _ in range(8):
        reasons += await after(minutes, metrics, 1)
        steps.append(ttl(caches))
    # Two minutes that say the same, then a step a minute.
    assert reasons[:2] == ["AwaitsAgreement", "Lengthened"]
    assert steps[-1] > 100.0
    assert all(one <= later <= 2 * one for one, later in pairwise([5.0, *steps]))
    assert minutes.events().count("Lengthened") == reasons.count("Lengthened")
    kept = api.kept(POLICY)["status"]
    assert kept["lastChangeTime"]
    assert "of answers stale" in kept["lastDecision"]["message"]


async def test_too_few_requests_decide_nothing(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="5s", **ACTIVE))
    reasons = await after(minutes, metrics, 3, requests=10.0)
    assert reasons == ["HeldTooFewObservations"] * 3
    assert ttl(caches) == 5.0
    assert api.ready(POLICY) == ("True", "Applied")


async def test_a_policy_that_is_paused_stays_and_goes_on_when_it_is_not(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    body = policy(ttl="30m", **ACTIVE)
    body["metadata"]["annotations"] = {"cache.peregrine.dev/paused": "true"}
    await api.apply(body)
    reasons = await after(minutes, metrics, 8, changes=60.0)
    assert reasons[-1] == "Paused"
    assert ttl(caches) == 1800.0
    unpaused = {"metadata": {"annotations": {"cache.peregrine.dev/paused": None}}}
    async with api.patch(POLICY.path, json=unpaused) as response:
        assert response.status == 200
    reasons = await after(minutes, metrics, 3, changes=60.0)
    assert "ShortenedAtOnce" in reasons
    assert ttl(caches) < 1800.0


async def test_bounds_are_kept_whatever_is_known(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="1m", **ACTIVE))
    metrics.status = 503
    assert await minutes.minute() == "HeldNoData"
    # Somebody who may do so sets another one, and the cache does not ask for bounds.
    caches.policies[NAMESPACE].ttl.CopyFrom(Duration(seconds=200_000))
    assert await minutes.minute() == "OutOfBounds"
    assert ttl(caches) == 86_400.0
    assert minutes.events().count("OutOfBounds") == 1


async def test_data_that_come_back_have_to_last(
    api: ApiServer, caches: Caches, metrics: FakePrometheus, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="5s", **ACTIVE))
    await after(minutes, metrics, 4)
    metrics.status = 503
    assert await after(minutes, metrics, 1) == ["HeldNoData"]
    assert api.ready(POLICY) == ("True", "AppliedNotTuned")
    metrics.status = 200
    before = ttl(caches)
    assert await after(minutes, metrics, 4) == ["HeldSettling"] * 4
    assert ttl(caches) == before
    assert api.ready(POLICY) == ("True", "Applied")


async def test_a_policy_that_somebody_else_changed_in_the_cache_is_applied_again(
    api: ApiServer, caches: Caches, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="30m"))
    await minutes.minute()
    caches.policies[NAMESPACE].ttl.CopyFrom(Duration(seconds=7))
    caches.policies[NAMESPACE].version += 1
    await minutes.minute()
    assert ttl(caches) == 1800.0
    assert minutes.events().count("DriftRepaired") == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"namespace": "tool:other", "ttl": "soon"}, "spec.ttl"),
        ({"namespace": "tool:other", "minTtl": "1h", "maxTtl": "1m"}, "spec.m"),
    ],
)
async def test_a_policy_that_no_schema_has_looked_at_is_refused(
    api: ApiServer, caches: Caches, minutes: Minutes, spec: dict[str, Any], said: str
) -> None:
    body = policy()
    body["spec"] = spec
    await api.apply(body)
    await minutes.minute()
    assert api.ready(POLICY) == ("False", "Invalid")
    assert said in api.message(POLICY)
    assert caches.policies == {}


async def test_two_policies_for_one_namespace_and_the_older_has_it(
    api: ApiServer, caches: Caches, minutes: Minutes
) -> None:
    await api.apply(policy(ttl="30m"))
    await minutes.minute()
    younger = policy(ttl="1m")
    younger["metadata"]["name"] = "younger"
    await api.apply(younger)
    other = Key("CachePolicy", "one", "younger")
    minutes.view.put(view.read("CachePolicy", api.kept(other)))
    await minutes.minute()
    assert api.ready(other) == ("False", "Conflicted")
    assert "one/lookup is older" in api.message(other)
    assert ttl(caches) == 1800.0
