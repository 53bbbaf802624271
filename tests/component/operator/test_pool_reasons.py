"""Every reason that a pool may give, through the API server: said as it is, and obeyed."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.component.operator.conftest import pool
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.looks import Looks, forget, load, put, values
from tests.support.kubernetes import ApiServer

QUIET = 7
"""Workers of a pool that nobody calls: there is something to be tempted by."""


@dataclass(frozen=True)
class Bad:
    """Data of a kind, the reason that is given for it, and what people read."""

    spoil: Callable[[FakePrometheus], None]
    reason: str
    message: str


BAD = {
    "down": Bad(lambda fake: setattr(fake, "status", 503), "QueryFailed", "503"),
    "empty": Bad(lambda fake: fake.answers.clear(), "NoSeries", "it knows: none"),
    "of another pool": Bad(lambda fake: _of_another(fake), "NoSeries", "it knows: others"),
    "NaN": Bad(lambda fake: values(fake, "tools", float("nan")), "NotFinite", "nan"),
    "infinite": Bad(lambda fake: values(fake, "tools", float("inf")), "NotFinite", "inf"),
    "negative": Bad(lambda fake: values(fake, "tools", -1.0, ["inflight"]), "NotFinite", "-1"),
    "absurd": Bad(lambda fake: values(fake, "tools", 1e12, ["queued"]), "NotFinite", "1000000"),
    "stale": Bad(lambda fake: values(fake, "tools", 31.0, ["age"]), "Stale", "31 s old"),
    "some": Bad(lambda fake: values(fake, "tools", 3.0, ["workers"]), "TooFewTargets", "43%"),
    "two of one": Bad(lambda fake: _twice(fake), "InvalidQuery", "2 series instead of one"),
}


def _twice(fake: FakePrometheus) -> None:
    put(fake, "tools", "inflight", [({"pool": "tools"}, 1.0), ({"pool": "tools"}, 2.0)])


def _of_another(fake: FakePrometheus) -> None:
    forget(fake, "tools")
    load(fake, rate=1.0, workers=7, pool="others")


@pytest.mark.parametrize("kind", BAD)
async def test_bad_data_is_told_and_nothing_is_taken_away(
    api: ApiServer, looks: Looks, metrics: FakePrometheus, kind: str
) -> None:
    api.deployment("tools", replicas=QUIET)
    load(metrics, rate=0.0, workers=QUIET)
    await api.apply(pool(mode="Direct"))
    await looks.look()
    assert looks.condition("MetricsAvailable")[:2] == ("True", "Read")
    bad = BAD[kind]
    bad.spoil(metrics)
    # Twice the window of five minutes.
    await looks.looks(5, seconds=120.0)
    available, reason, message = looks.condition("MetricsAvailable")
    assert (available, reason) == ("False", bad.reason)
    assert bad.message in message
    assert looks.condition("Ready")[:2] == ("False", bad.reason)
    degraded, _, why = looks.condition("Degraded")
    assert degraded == "True"
    assert "holding" in why
    assert set(looks.replicas) == {QUIET}
    # What lasts is told once.
    assert len(looks.events("Degraded")) == 1


async def test_data_that_come_back_have_to_last_before_anything_is_taken_away(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=QUIET)
    load(metrics, rate=0.0, workers=QUIET)
    await api.apply(pool(mode="Direct"))
    metrics.status = 503
    await looks.looks(5, seconds=120.0)
    metrics.status = 200
    await looks.look()
    assert looks.condition("Degraded")[0] == "False"
    await looks.looks(9, seconds=30.0)
    assert set(looks.replicas) == {QUIET}
    await looks.looks(2, seconds=30.0)
    assert looks.replicas[-1] < QUIET
    assert looks.events("ScaledDown")


async def test_without_data_for_long_a_pool_goes_to_its_fallback_if_that_is_more(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=3)
    load(metrics, rate=0.0, workers=3)
    metrics.status = 503
    await api.apply(pool(mode="Direct", fallback=5))
    await looks.looks(3, seconds=55.0)
    assert set(looks.replicas) == {3}
    await looks.look(10.0)
    assert looks.replicas[-1] == 5
    assert looks.status()["lastDecision"]["reason"] == "Fallback"
    assert "3 → 5 (Fallback)" in looks.events("ScaledUp")[0]


async def test_a_fallback_that_is_less_lowers_nothing(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=QUIET)
    metrics.status = 503
    await api.apply(pool(mode="Direct", fallback=3))
    await looks.looks(4, seconds=60.0)
    assert set(looks.replicas) == {QUIET}


async def test_pods_that_do_not_become_ready_are_told_and_not_multiplied(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=3)
    unready = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
    for name in list(api.pods()):
        api.pod(name, of="tools", conditions=unready)
    load(metrics, rate=40.0, workers=3)
    await api.apply(pool(mode="Direct"))
    await looks.looks(2, seconds=115.0)
    assert looks.condition("NoReadyPods")[0] == "False"
    await looks.look()
    unready_now, _, message = looks.condition("NoReadyPods")
    assert unready_now == "True"
    assert "Events and logs" in message
    assert looks.condition("Ready")[:2] == ("False", "NoReadyPods")
    assert len(looks.events("NoReadyPods")) == 1
    assert set(looks.replicas) == {3}


async def test_a_pool_that_has_reached_its_most_says_so(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct", maxReplicas=4))
    await looks.look()
    limited, reason, message = looks.condition("ScalingLimited")
    assert (limited, reason) == ("True", "TooManyReplicas")
    assert "maxReplicas is 4" in message
    assert looks.replicas == [4]
    assert looks.status()["lastDecision"]["reason"] == "AtMost"
    load(metrics, rate=1.0, workers=4)
    await looks.looks(2)
    assert looks.condition("ScalingLimited")[:2] == ("False", "WithinBounds")


async def test_a_pool_below_its_least_is_raised(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=1)
    load(metrics, rate=0.0, workers=1)
    await api.apply(pool(mode="Direct", minReplicas=3))
    await looks.look()
    assert looks.replicas == [3]
    assert looks.status()["lastDecision"]["reason"] == "AtLeast"


async def test_more_than_four_times_the_pool_takes_a_second_look(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=400.0, workers=2)
    await api.apply(pool(mode="Direct", maxReplicas=100))
    await looks.look()
    assert looks.replicas == [8]
    assert looks.status()["lastDecision"]["reason"] == "Confirming"
    load(metrics, rate=400.0, workers=8)
    await looks.look()
    assert looks.replicas[-1] > 50


async def test_a_queue_that_stays_slow_gets_one_more(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=4.0, workers=2)
    values(metrics, "tools", 3.0, ["queued"])
    waits = [({"pool": "tools", "le": edge}, count) for edge, count in (("1", 0.0), ("+Inf", 4.0))]
    put(metrics, "tools", "waits_60s", waits)
    await api.apply(pool(mode="Direct"))
    await looks.looks(2)
    assert set(looks.replicas) == {2}
    await looks.look()
    assert looks.replicas[-1] == 3
    assert "2 → 3 (SlowQueue)" in looks.events("ScaledUp")[0]


async def test_a_load_that_grows_slowly_is_no_panic(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=4)
    load(metrics, rate=32.0, workers=4)
    await api.apply(pool(mode="Direct"))
    await looks.look()
    assert looks.replicas == [5]
    assert "5 (Load): 32 calls/s" in looks.events("ScaledUp")[0]


async def test_a_quiet_pool_shrinks_after_its_window_by_a_fifth_a_minute(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=QUIET)
    load(metrics, rate=0.0, workers=QUIET)
    await api.apply(pool(mode="Direct"))
    await looks.looks(10, seconds=30.0)
    assert set(looks.replicas) == {QUIET}
    for _ in range(20):
        await looks.look(30.0)
        if looks.replicas[-1] == 2:
            break
    # By a fifth a minute.
    assert list(dict.fromkeys(looks.replicas)) == [7, 5, 4, 3, 2]
    assert all("(Lowered)" in told for told in looks.events("ScaledDown"))
    assert looks.condition("Ready")[0] == "True"


async def test_a_namespace_in_which_nothing_may_be_scaled_is_told(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct"))
    api.refusing_scales = True
    await looks.looks(3)
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "Forbidden")
    assert "Role operator-pools" in message
    assert set(looks.replicas) == {2}
    api.refusing_scales = False
    await looks.look()
    assert looks.condition("Ready")[0] == "True"


async def test_a_pool_that_no_schema_has_looked_at_is_refused(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct", minReplicas=5, maxReplicas=3))
    await looks.looks(3)
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "Invalid")
    assert "spec.minReplicas" in message
    assert set(looks.replicas) == {2}


async def test_two_resources_for_one_deployment_and_the_older_has_it(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Observe"))
    await looks.look()
    younger = pool("younger", mode="Direct")
    younger["spec"]["deployment"] = "tools"
    await api.apply(younger)
    await looks.looks(3)
    key = next(one.key for one in looks.view.of("ToolPool") if one.key.name == "younger")
    ready, reason, message = looks.condition("Ready", key)
    assert (ready, reason) == ("False", "Conflicted")
    assert "tools is older" in message
    assert set(looks.replicas) == {2}
