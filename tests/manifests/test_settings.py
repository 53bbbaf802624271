"""What a pod's environment says is what its service reads, and reads without complaint."""

import importlib
from typing import Any

import pytest

from peregrine.__main__ import SERVICES
from peregrine.kit import settings
from peregrine.kit.settings import ServeSettings
from tests.contract.reference import declared_settings
from tests.manifests.rendered import (
    Workload,
    every_overlay,
    needs_kubectl,
    of_kind,
    workload,
    workloads,
)

pytestmark = needs_kubectl

OPERATOR = "peregrine_operator"
STORES = ("postgres", "redis-logs", "redis-cache")
# For a value that only the cluster knows.
STAND_INS = {
    "PEREGRINE_POSTGRES_DSN": "postgresql://peregrine@postgres/peregrine",
    "PEREGRINE_REDIS_URL": "redis://redis-logs",
    "PEREGRINE_CACHE_REDIS_URL": "redis://redis-cache",
}
KEYS = "k1:" + "A" * 43 + "="
# The first class of a module is its own.
DECLARED = dict(reversed(declared_settings()))


def settings_of(program: list[str]) -> Any:
    """The settings class of what a pod runs."""
    if program == [OPERATOR]:
        module = f"{OPERATOR}.main"
    else:
        package, service = program
        assert package == "peregrine"
        module = SERVICES[service]
    return getattr(importlib.import_module(module), DECLARED[module])


def ours(overlay: str) -> list[Workload]:
    return [each for each in workloads(overlay) if each.is_ours and each.program]


def loaded(each: Workload) -> Any:
    environ = {name: value or STAND_INS[name] for name, value in each.plain_environ().items()} | {
        f"PEREGRINE_SECRET_{name}": KEYS for name in each.files if name == "IDENTITY_KEYS"
    }
    return settings.load(settings_of(each.program), environ)


@every_overlay
def test_every_pod_runs_a_service_that_exists(overlay: str) -> None:
    for each in ours(overlay):
        assert each.program == [OPERATOR] or each.program[1:] == [
            name for name in each.program[1:] if name in SERVICES
        ]
    running = {each.program[-1] for each in ours(overlay)}
    assert running >= {
        *("orchestrator", "llm-gateway", "tools", "cache", "memory", "edge", "migrate", OPERATOR)
    }


@every_overlay
def test_every_variable_is_a_setting_of_that_very_service(overlay: str) -> None:
    unknown = {
        each.name: left
        for each in ours(overlay)
        if (
            left := set(each.plain_environ())
            - {row.variable for row in settings.describe(settings_of(each.program))}
        )
    }
    assert unknown == {}


@every_overlay
def test_every_service_would_start_with_its_settings(overlay: str) -> None:
    for each in ours(overlay):
        loaded(each)


@every_overlay
def test_the_ports_of_a_pod_are_those_its_service_listens_on(overlay: str) -> None:
    for each in ours(overlay):
        values = loaded(each)
        expected = set()
        if getattr(values, "listen", ""):
            host, _, port = values.listen.rpartition(":")
            assert host == "0.0.0.0"
            expected.add(int(port))
        if getattr(values, "metrics_port", 0):
            assert values.metrics_host == "0.0.0.0"
            assert each.ports["metrics"] == values.metrics_port
            expected.add(values.metrics_port)
        if each.program == [OPERATOR]:
            assert values.health_host == "0.0.0.0"
            expected.add(values.health_port)
        assert set(each.ports.values()) == expected, each.name


@every_overlay
def test_a_pod_is_given_more_time_than_its_service_takes_to_drain(overlay: str) -> None:
    for each in ours(overlay):
        values = loaded(each)
        if isinstance(values, ServeSettings):
            taken = values.endpoint_grace_seconds + values.drain_seconds
            assert values.endpoint_grace_seconds >= 5
            assert each.pod["terminationGracePeriodSeconds"] >= taken + 10, each.name


@every_overlay
def test_a_start_that_waits_for_its_database_is_not_killed_for_it(overlay: str) -> None:
    for each in ours(overlay):
        values = loaded(each)
        if isinstance(values, ServeSettings):
            probe = each.container["startupProbe"]
            allowed = probe["periodSeconds"] * probe["failureThreshold"]
            assert values.start_wait_seconds >= 120
            assert allowed > values.start_wait_seconds


@every_overlay
def test_identity_is_on_everywhere(overlay: str) -> None:
    for each in ours(overlay):
        assert getattr(loaded(each), "auth_required", True), each.name


@every_overlay
def test_who_verifies_identities_has_the_keys_and_nobody_else(overlay: str) -> None:
    having = {each.name for each in workloads(overlay) if "IDENTITY_KEYS" in each.files}
    assert having == {"orchestrator", "llm-gateway", "tools", "cache", "memory", "operator"}
    bootstrap = {each.name for each in workloads(overlay) if "BOOTSTRAP_API_KEY" in each.files}
    assert bootstrap == {"orchestrator"}


@every_overlay
def test_a_secret_goes_only_to_who_uses_it(overlay: str) -> None:
    users: dict[str, set[str]] = {}
    for each in workloads(overlay):
        for variable in each.container.get("env", ()):
            if "valueFrom" not in variable:
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            assert "optional" not in reference
            users.setdefault(reference["key"], set()).add(each.name.partition("-0")[0])
    stored = {"orchestrator", "tools", "cache", "memory", "migrate"}
    assert users == {
        "postgres-dsn": stored,
        "redis-logs-url": {"orchestrator", "cache"},
        "redis-cache-url": {"cache"},
    }


@pytest.mark.parametrize("overlay", ["dev", "live"])
def test_connections_to_postgresql_stay_below_its_limit_also_during_a_rollout(overlay: str) -> None:
    (start,) = (
        each["data"]["start-postgres.sh"]
        for each in of_kind(overlay, "ConfigMap").values()
        if "start-postgres.sh" in each.get("data", {})
    )
    limit = int(start.partition("max_connections=")[2].split()[0])
    sizes = {
        each.name: values.postgres_pool_size
        for each in ours(overlay)
        if each.kind == "Deployment" and hasattr(values := loaded(each), "postgres_pool_size")
    }
    # The pool of the examples may grow to 20 workers and a quarter more in a rollout; one of each
    # of the others, and its successor.
    pods = {name: 25 if name == "tools" else 2 for name in sizes}
    assert sum(sizes[name] * count for name, count in pods.items()) <= limit - 10


@pytest.mark.parametrize("overlay", ["dev", "live"])
def test_tools_and_documents_belong_to_the_tenant_that_kubectl_speaks_for(overlay: str) -> None:
    tools, operator = loaded(workload(overlay, "tools")), loaded(workload(overlay, "operator"))
    assert tools.knowledge_tenant == operator.tenant
    assert tools.tenant == operator.tenant
    (knowledge,) = (
        each for each in workload(overlay, "tools").pod["volumes"] if each["name"] == "knowledge"
    )
    documents = of_kind(overlay, "ConfigMap")[knowledge["configMap"]["name"]]["data"]
    assert any("refund" in each for each in documents.values())
