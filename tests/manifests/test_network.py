"""Who is found by which name, and that everybody who is asked for is there."""

import re

from tests.manifests.rendered import (
    Object,
    Workload,
    every_overlay,
    needs_kubectl,
    of_kind,
    workloads,
)

pytestmark = needs_kubectl

TARGET = re.compile(r"dns:///([a-z-]+):(\d+)")
URL = re.compile(r"https?://([a-z-]+):(\d+)")


def selected(overlay: str, service: Object) -> list[Workload]:
    wanted = service["spec"]["selector"].items()
    return [each for each in workloads(overlay) if wanted <= each.labels.items()]


@every_overlay
def test_every_service_selects_one_deployment_and_a_port_that_it_has(overlay: str) -> None:
    for name, service in of_kind(overlay, "Service").items():
        (found,) = selected(overlay, service)
        assert found.kind == "Deployment"
        for port in service["spec"]["ports"]:
            assert found.ports[port["targetPort"]] == port["port"], name


@every_overlay
def test_every_deployment_selects_its_own_pods_alone(overlay: str) -> None:
    for each in workloads(overlay):
        if each.kind == "Deployment":
            wanted = each.object["spec"]["selector"]["matchLabels"].items()
            assert [
                other.name for other in workloads(overlay) if wanted <= other.labels.items()
            ] == [each.name]


@every_overlay
def test_grpc_is_found_by_headless_services_and_the_edge_by_one_address(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    for each in workloads(overlay):
        if "grpc" in each.ports:
            assert services[each.name]["spec"]["clusterIP"] == "None"
    assert services["edge"]["spec"]["type"] == "ClusterIP"
    assert "clusterIP" not in services["edge"]["spec"]
    assert {each["spec"].get("type", "ClusterIP") for each in services.values()} == {"ClusterIP"}


@every_overlay
def test_every_target_is_a_service_and_its_port(overlay: str) -> None:
    services = of_kind(overlay, "Service")
    asked = 0
    for each in workloads(overlay):
        for variable, value in each.plain_environ().items():
            match = URL.fullmatch(value)
            if variable.endswith("_TARGET"):
                match = TARGET.fullmatch(value)
                assert match, f"{each.name}: {variable} is not balanced over pods: {value}"
                assert services[match[1]]["spec"]["clusterIP"] == "None"
            if match:
                assert int(match[2]) in [
                    port["port"] for port in services[match[1]]["spec"]["ports"]
                ]
                asked += 1
    assert asked >= 7


@every_overlay
def test_every_service_of_ours_says_where_its_metrics_are(overlay: str) -> None:
    scraped = [each for each in workloads(overlay) if "metrics" in each.ports]
    assert {each.name for each in scraped} == {
        *("orchestrator", "llm-gateway", "tools", "cache", "memory", "edge", "operator")
    }
    for each in scraped:
        annotations = each.template["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/port"] == str(each.ports["metrics"])


def test_prometheus_asks_every_one_of_them_by_name() -> None:
    services = of_kind("dev", "Service")
    (config,) = (
        each["data"]["prometheus.yml"]
        for each in of_kind("dev", "ConfigMap").values()
        if "prometheus.yml" in each.get("data", {})
    )
    names = set(re.findall(r"^ +- ([a-z-]+)$", config, re.MULTILINE))
    found = set()
    for name in names:
        assert services[name]["spec"]["clusterIP"] == "None"
        (workload,) = selected("dev", services[name])
        assert workload.ports["metrics"] == 9090
        found.add(workload.name)
    assert found == {each.name for each in workloads("dev") if "metrics" in each.ports}


def test_the_way_in_of_production_is_encrypted_and_leads_to_the_edge() -> None:
    (ingress,) = of_kind("prod", "Ingress").values()
    hosts = {rule["host"] for rule in ingress["spec"]["rules"]}
    assert {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]} == hosts
    assert all(tls["secretName"] for tls in ingress["spec"]["tls"])
    services = of_kind("prod", "Service")
    for rule in ingress["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            assert backend["port"]["name"] in [
                port["name"] for port in services[backend["name"]]["spec"]["ports"]
            ]
    (edge,) = (each for each in workloads("prod") if each.name == "edge")
    assert set(edge.plain_environ()["PEREGRINE_EDGE_HOSTS"].split(",")) == hosts


def test_nothing_of_development_is_in_production() -> None:
    names = {each.name for each in workloads("prod")}
    assert not names & {"simulator", "stand-in", "postgres", "redis-logs", "redis-cache"}
    assert not names & {"generate-secrets", "prometheus"}
