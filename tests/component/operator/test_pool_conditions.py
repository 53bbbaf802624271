"""What may be wrong with a pool: each says what to do, and meanwhile nothing is scaled."""

import functools

import pytest

from peregrine_operator.kubernetes import Key
from tests.component.operator.conftest import pool
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.looks import POOL, Looks, forget, load
from tests.support.kubernetes import ApiServer

HPA = "autoscaling/v2/horizontalpodautoscalers"
SCALED_OBJECT = "keda.sh/v1alpha1/scaledobjects"


@pytest.fixture(autouse=True)
def a_load_that_wants_more(api: ApiServer, metrics: FakePrometheus) -> None:
    """Of 2 workers it would make 7."""
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)


async def test_with_nothing_wrong_it_grows(api: ApiServer, looks: Looks) -> None:
    await api.apply(pool(mode="Direct"))
    await looks.look()
    assert looks.replicas == [7]
    assert looks.condition("Ready")[:2] == ("True", "Panic")
    assert looks.events("ScaledUp")


async def test_a_selector_that_finds_no_pods(api: ApiServer, looks: Looks) -> None:
    for name in list(api.pods()):
        del api.objects["v1/pods", "one", name]
    api.obey = lambda *_, **__: None  # type: ignore[method-assign] # nor does anybody make any
    await api.apply(pool(mode="Direct"))
    await looks.looks(10)
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "WrongSelector")
    assert "app=tools" in message
    assert "labels of its template" in message
    assert looks.events("WrongSelector") == [message]
    assert set(looks.replicas) == {2}


async def test_a_selector_that_finds_pods_of_others(api: ApiServer, looks: Looks) -> None:
    for name in list(api.pods()):
        del api.objects["v1/pods", "one", name]
        api.pod(name, of="other")
    api.obey = lambda *_, **__: None  # type: ignore[method-assign]
    await api.apply(pool(mode="Direct"))
    await looks.looks(10)
    assert looks.condition("Ready")[:2] == ("False", "WrongSelector")
    assert set(looks.replicas) == {2}


async def test_workers_whose_metrics_are_of_another_pool(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    forget(metrics, "tools")
    load(metrics, rate=40.0, workers=2, pool="default")
    await api.apply(pool(mode="Direct"))
    await looks.looks(10)
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "NoSeries")
    assert "it knows: default" in message
    assert "PEREGRINE_TOOLS_POOL=tools" in message
    assert set(looks.replicas) == {2}


async def test_two_pools_whose_workers_carry_the_same_label(api: ApiServer, looks: Looks) -> None:
    api.deployment("tools", replicas=2, namespace="two")
    await api.apply(pool())
    await looks.look()
    await api.apply(pool(namespace="two", mode="Direct"))
    await looks.looks(10)
    other = Key("ToolPool", "two", "tools")
    ready, reason, message = looks.condition("Ready", other)
    assert (ready, reason) == ("False", "NameTaken")
    assert "one/tools" in message
    assert api.replicas("tools", namespace="two") == 2
    assert looks.condition("Ready")[0] == "True"


async def test_a_deployment_that_is_missing(api: ApiServer, looks: Looks) -> None:
    del api.objects["apps/v1/deployments", "one", "tools"]
    await api.apply(pool(mode="Direct"))
    await looks.look(deployments=())
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "DeploymentMissing")
    assert "correct spec.deployment" in message
    # Once it is there, all is well, and nobody has to do anything.
    api.deployment("tools", replicas=2)
    await looks.look()
    assert looks.condition("Ready")[0] == "True"


@pytest.mark.parametrize(
    ("kind", "where"), [("HorizontalPodAutoscaler", HPA), ("ScaledObject", SCALED_OBJECT)]
)
async def test_somebody_else_who_scales_the_same(
    api: ApiServer, looks: Looks, kind: str, where: str
) -> None:
    api.resources[where] = {"namespaced": True}
    api.objects[where, "one", "theirs"] = {
        "metadata": {"name": "theirs", "namespace": "one"},
        "spec": {"scaleTargetRef": {"name": "tools"}},
    }
    await api.apply(pool(mode="Direct"))
    await looks.looks(10)
    ready, reason, message = looks.condition("Ready")
    assert (ready, reason) == ("False", "Conflicted")
    assert f"{kind} theirs" in message
    assert "delete it" in message
    assert set(looks.replicas) == {2}
    assert looks.status()["desiredReplicas"] > 4
    assert len(looks.events("Conflicted")) == 1
    # It is gone: after the half minute that the list is believed, ours goes on.
    del api.objects[where, "one", "theirs"]
    await looks.looks(7)
    assert looks.condition("Conflicted")[0] == "False"
    assert looks.replicas[-1] > 4


@pytest.mark.parametrize(
    ("annotation", "value", "replicas", "said"),
    [
        ("paused", "true", {2}, "nothing is written"),
        ("paused-replicas", "3", {3}, "held at 3"),
        ("paused-scale-out", "true", {2}, "nothing is added"),
        ("paused-replicas", "three", {2}, "not a number of replicas"),
    ],
)
async def test_a_pool_that_is_paused(
    api: ApiServer, looks: Looks, annotation: str, value: str, replicas: set[int], said: str
) -> None:
    body = pool(mode="Direct")
    body["metadata"]["annotations"] = {f"peregrine.dev/{annotation}": value}
    await api.apply(body)
    await looks.looks(10)
    assert set(looks.replicas) == replicas
    paused, _, message = looks.condition("Paused")
    assert paused == "True"
    assert said in message
    await _annotate(api, annotation, None)
    await looks.look()
    assert looks.condition("Paused")[0] == "False"
    assert looks.replicas[-1] > 4


async def test_a_pool_that_may_not_shrink(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=9)
    load(metrics, rate=1.0, workers=9)
    body = pool(mode="Direct")
    body["metadata"]["annotations"] = {"peregrine.dev/paused-scale-in": "true"}
    await api.apply(body)
    await looks.looks(24, seconds=20.0)
    assert set(looks.replicas) == {9}
    assert "nothing is taken away" in looks.condition("Paused")[2]
    await _annotate(api, "paused-scale-in", None)
    await looks.looks(24, seconds=20.0)
    assert looks.replicas[-1] < 6


async def test_somebody_who_scales_by_hand_is_obeyed_for_five_minutes(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    await api.apply(pool(mode="Direct"))
    await looks.look()
    load(metrics, rate=40.0, workers=7)
    await looks.look()
    await _scale(api, 4)
    await looks.look()
    overridden, _, message = looks.condition("ExternalOverride")
    assert overridden == "True"
    assert "pause the pool" in message
    assert looks.events("ExternalOverride") == ["somebody changed replicas from 7 to 4"]
    await looks.looks(58)
    assert looks.replicas[-1] == 4
    await looks.looks(2)
    assert looks.replicas[-1] == 7
    assert looks.condition("ExternalOverride")[0] == "False"


async def test_pods_that_find_no_node(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    await api.apply(pool(mode="Direct"))
    await looks.look()
    for name in list(api.pods())[2:]:
        unscheduled = [{"type": "PodScheduled", "status": "False"}]
        api.pod(name, of="tools", phase="Pending", podIP="", conditions=unscheduled)
    load(metrics, rate=160.0, workers=2)
    await looks.looks(5)
    blocked, _, message = looks.condition("CapacityBlocked")
    assert blocked == "True"
    assert "add nodes" in message
    assert looks.replicas[-1] == 7
    assert looks.status()["lastDecision"]["reason"] == "CapacityBlocked"


async def test_a_conflict_is_read_again_once(api: ApiServer, looks: Looks) -> None:
    """Whoever wrote between our reading and our writing is not overwritten unseen."""
    await api.apply(pool(mode="Direct"))
    api.before_scale = functools.partial(_scale, api, 3)
    await looks.look()
    assert looks.replicas == [3]
    assert looks.registry.get_sample_value("peregrine_autoscaler_scale_failures_total") == 1
    # It was read again, and what was found there is somebody's who is obeyed.
    assert looks.status()["currentReplicas"] == 3
    assert looks.condition("ExternalOverride")[0] == "True"


async def test_a_write_whose_answer_is_lost_was_ours(api: ApiServer, looks: Looks) -> None:
    await api.apply(pool(mode="Direct"))
    api.losing_scales = True
    await looks.look()
    assert looks.replicas == [7]
    api.losing_scales = False
    await looks.looks(2)
    assert looks.condition("ExternalOverride")[0] == "False"
    assert looks.events("ExternalOverride") == []
    assert looks.status()["currentReplicas"] == 7


async def test_an_operator_that_dies_between_a_write_and_its_status_knows_its_own(
    api: ApiServer, looks: Looks
) -> None:
    await api.apply(pool(mode="Direct"))
    api.losing_scales = True
    await looks.look()
    looks.restart()
    api.losing_scales = False
    await looks.looks(2)
    assert looks.events("ExternalOverride") == []
    assert looks.replicas == [7, 7, 7]


async def test_what_is_over_is_not_remembered(
    api: ApiServer, looks: Looks, metrics: FakePrometheus
) -> None:
    """A merge patch keeps what it is not told of, and the status is what a restart goes on from."""
    await api.apply(pool(mode="Direct"))
    await looks.look()
    load(metrics, rate=40.0, workers=7)
    metrics.status = 503
    await looks.looks(4)
    assert looks.status()["autoscaler"]["bad_since"] > 0
    metrics.status = 200
    await looks.looks(2)
    assert "bad_since" not in looks.status()["autoscaler"]
    assert "writing" not in looks.status()["autoscaler"]


async def _annotate(api: ApiServer, name: str, value: str | None) -> None:
    body = {"metadata": {"annotations": {f"peregrine.dev/{name}": value}}}
    async with api.patch(POOL.path, json=body) as response:
        assert response.status == 200


async def _scale(api: ApiServer, replicas: int) -> None:
    path = "/apis/apps/v1/namespaces/one/deployments/tools/scale"
    async with api.patch(path, json={"spec": {"replicas": replicas}}) as response:
        assert response.status == 200
    api.obey("tools")
