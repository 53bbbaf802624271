"""Nobody may talk to anybody, but for what the settings of a service make it need."""

from collections.abc import Iterator

import pytest

from tests.manifests.rendered import (
    Object,
    Workload,
    every_overlay,
    needs_kubectl,
    of_kind,
    workload,
    workloads,
)
from tests.manifests.test_network import TARGET, URL

pytestmark = needs_kubectl

STORES = {
    "postgres-dsn": ("postgres", 5432),
    "redis-logs-url": ("redis-logs", 6379),
    "redis-cache-url": ("redis-cache", 6379),
}


def selects(selector: Object, labels: Object) -> bool:
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(
        labels.get(each["key"]) in each["values"]
        for each in selector.get("matchExpressions", ())
        if each["operator"] == "In"
    )


def peers(overlay: str, of: Workload, direction: str) -> Iterator[tuple[Object, set[int]]]:
    """(peer, ports) that a pod's policies allow; an empty peer is anybody, no ports are all."""
    key, word = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    for policy in of_kind(overlay, "NetworkPolicy").values():
        spec = policy["spec"]
        if direction in spec["policyTypes"] and selects(spec["podSelector"], {**of.labels}):
            for rule in spec.get(key, ()):
                ports = {each["port"] for each in rule.get("ports", ())}
                for peer in rule.get(word, [{}]):
                    yield peer, ports


def allowed(overlay: str, source: Workload, target: Workload, port: int) -> bool:
    """Both ends have to agree."""

    def one(of: Workload, other: Workload, direction: str) -> bool:
        return any(
            (not peer or ("podSelector" in peer and selects(peer["podSelector"], {**other.labels})))
            and (not ports or port in ports)
            for peer, ports in peers(overlay, of, direction)
        )

    return one(source, target, "Egress") and one(target, source, "Ingress")


def needs(overlay: str) -> set[tuple[str, str, int]]:
    """(who, whom, port), from the settings and secrets of every pod."""
    found = set()
    for each in workloads(overlay):
        for value in each.plain_environ().values():
            if match := TARGET.fullmatch(value) or URL.fullmatch(value):
                found.add((each.name, match[1], int(match[2])))
        for variable in each.container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
            if overlay != "prod" and reference.get("key") in STORES:
                found.add((each.name, *STORES[reference["key"]]))
    return found


@every_overlay
def test_everything_is_denied_first(overlay: str) -> None:
    deny = of_kind(overlay, "NetworkPolicy")["nothing-else"]["spec"]
    assert deny["podSelector"] == {}
    assert set(deny["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in deny
    assert {port["port"] for rule in deny["egress"] for port in rule["ports"]} == {53}


@every_overlay
def test_what_a_service_needs_is_open_at_both_ends(overlay: str) -> None:
    needed = needs(overlay)
    assert len(needed) >= 8
    closed = [
        each
        for each in needed
        if not allowed(overlay, workload(overlay, each[0]), workload(overlay, each[1]), each[2])
    ]
    assert closed == []


@every_overlay
def test_what_it_does_not_need_is_not(overlay: str) -> None:
    needed = {(who, whom) for who, whom, _ in needs(overlay)}
    for source in workloads(overlay):
        for target in workloads(overlay):
            pair = (source.name, target.name)
            if source.name == target.name or pair in needed or source.name == "prometheus":
                continue
            ports = {
                port
                for name, port in target.ports.items()
                if name != "metrics" and target.name != "edge"
            }
            assert not [port for port in ports if allowed(overlay, source, target, port)], pair


@every_overlay
def test_metrics_are_open_to_prometheus_wherever_it_is(overlay: str) -> None:
    for each in workloads(overlay):
        if "metrics" in each.ports:
            assert any(
                peer == {"namespaceSelector": {}} and 9090 in ports
                for peer, ports in peers(overlay, each, "Ingress")
            )


@every_overlay
def test_tools_reach_no_private_address_and_only_the_gateway_and_tools_reach_outside(
    overlay: str,
) -> None:
    outside = {}
    for each in workloads(overlay):
        for peer, ports in peers(overlay, each, "Egress"):
            if "ipBlock" in peer:
                outside.setdefault(each.name, set()).add(frozenset(ports))
                closed = peer["ipBlock"]["except"]
                assert {"10.0.0.0/8", "169.254.0.0/16"} <= {*closed} or "fc00::/7" in closed
    assert outside == {"llm-gateway": {frozenset({443})}, "tools": {frozenset()}}


SPREAD = {"orchestrator", "llm-gateway", "tools", "cache", "memory", "edge"}


def test_in_production_every_service_may_lose_one_pod_at_a_time() -> None:
    budgets = of_kind("prod", "PodDisruptionBudget")
    assert set(budgets) == SPREAD
    for name, budget in budgets.items():
        assert selects(budget["spec"]["selector"], {**workload("prod", name).labels})
        assert budget["spec"]["maxUnavailable"] == 1
    # There a second apply would not say "unchanged" of them.
    assert not of_kind("dev", "PodDisruptionBudget")


@pytest.mark.parametrize("overlay", ["dev", "prod"])
def test_the_pods_of_a_service_are_spread(overlay: str) -> None:
    for name in SPREAD:
        spread = workload(overlay, name).pod["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        for each in spread:
            assert selects(each["labelSelector"], {**workload(overlay, name).labels})
            assert "app.kubernetes.io/name" in each["matchLabelKeys"]


def test_production_scales_every_stateless_service_but_tools() -> None:
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]
        for each in of_kind("prod", "HorizontalPodAutoscaler").values()
    }
    assert set(scaled) == {"orchestrator", "llm-gateway", "cache", "memory", "edge"}
    for name, spec in scaled.items():
        assert 2 <= spec["minReplicas"] < spec["maxReplicas"]
        assert "replicas" not in workload("prod", name).object["spec"]
        assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
