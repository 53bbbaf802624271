"""Tool pools: what is read for a decision, what is written of it, and what is only said."""

from typing import Any

from peregrine_operator.signals import QUERIES
from tests.component.operator.conftest import Start, pool
from tests.component.operator.fake_prometheus import FakePrometheus
from tests.component.operator.looks import POOL, load
from tests.support.eventually import eventually
from tests.support.kubernetes import ApiServer


def status(api: ApiServer) -> dict[str, Any]:
    found: dict[str, Any] = api.kept(POOL).get("status", {})
    return found


def condition(api: ApiServer, name: str) -> tuple[str, str]:
    for each in status(api).get("conditions", ()):
        if each["type"] == name:
            return each["status"], each["reason"]
    return "", ""


async def test_a_pool_in_direct_mode_grows_with_its_load(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: api.replicas("tools") > 4)
        await eventually(lambda: condition(api, "Ready")[0] == "True")
    assert status(api)["currentReplicas"] == status(api)["desiredReplicas"] == api.replicas("tools")
    assert status(api)["lastScaleTime"]
    assert status(api)["autoscaler"]["replicas"] == api.replicas("tools")


async def test_a_pool_that_is_observed_is_only_told_about(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Observe"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: status(api).get("desiredReplicas", 0) > 4)
    assert api.replicas("tools") == 2
    assert status(api)["currentReplicas"] == 2


async def test_without_prometheus_nothing_is_scaled_and_the_conditions_say_so(
    api: ApiServer, start: Start
) -> None:
    api.deployment("tools", replicas=7)
    await api.apply(pool(mode="Direct"))
    async with start():
        await eventually(lambda: condition(api, "MetricsAvailable")[0] == "False")
    assert api.ready(POOL)[0] == "False"
    assert api.replicas("tools") == 7
    assert status(api)["desiredReplicas"] == 7


async def test_a_prometheus_that_fails_leaves_the_pool_as_it_is(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=7)
    metrics.status = 503
    await api.apply(pool(mode="Direct"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: condition(api, "MetricsAvailable") == ("False", "QueryFailed"))
    assert api.replicas("tools") == 7


async def test_a_missing_deployment_is_told(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    await api.apply(pool(mode="Direct"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: api.ready(POOL) == ("False", "DeploymentMissing"))
        await eventually(lambda: bool(api.events("DeploymentMissing")))


async def test_an_autoscaler_of_somebody_else_stops_ours(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    api.objects["autoscaling/v2/horizontalpodautoscalers", "one", "theirs"] = {
        "metadata": {"name": "theirs", "namespace": "one"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "tools"}},
    }
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: condition(api, "Conflicted")[0] == "True")
        await eventually(lambda: api.ready(POOL)[0] == "False")
    assert api.replicas("tools") == 2
    assert status(api)["desiredReplicas"] > 4


async def test_a_restart_does_not_lower_a_pool(
    api: ApiServer, start: Start, metrics: FakePrometheus
) -> None:
    api.deployment("tools", replicas=2)
    load(metrics, rate=40.0, workers=2)
    await api.apply(pool(mode="Direct"))
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: api.replicas("tools") > 4)
        grown = api.replicas("tools")
        await eventually(lambda: status(api).get("autoscaler", {}).get("replicas") == grown)
    api.deployment("tools", replicas=grown)
    load(metrics, rate=0.0, workers=grown)
    metrics.asked = 0
    async with start(PEREGRINE_PROMETHEUS_URL=metrics.url):
        await eventually(lambda: metrics.asked >= 2 * len(QUERIES), timeout=20)
    assert api.replicas("tools") == grown
