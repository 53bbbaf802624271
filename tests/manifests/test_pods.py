"""What every pod has: probes, limits, a restricted context, an image that is pinned."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.manifests.rendered import (
    IMAGE,
    Workload,
    every_overlay,
    needs_kubectl,
    objects,
    workloads,
)

pytestmark = needs_kubectl

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
GRPC = {"orchestrator", "llm-gateway", "tools", "cache", "memory"}
# Who asks the API server, and so has a token.
CLIENTS_OF_KUBERNETES = {"operator", "generate-secrets"}
# Where somebody else decides how many there are.
AUTOSCALED = {"tools"}


def insecure(workload: Workload) -> Iterator[str]:
    """What the restricted Pod Security standard forbids, and what we forbid beside it."""
    pod, container = workload.pod, workload.container
    whole, own = pod.get("securityContext", {}), container.get("securityContext", {})
    wanted: dict[str, tuple[Any, Any]] = {
        "runAsNonRoot": (whole.get("runAsNonRoot"), True),
        "seccompProfile": (whole.get("seccompProfile", {}).get("type"), "RuntimeDefault"),
        "allowPrivilegeEscalation": (own.get("allowPrivilegeEscalation"), False),
        "readOnlyRootFilesystem": (own.get("readOnlyRootFilesystem"), True),
        "capabilities": (own.get("capabilities"), {"drop": ["ALL"]}),
        "enableServiceLinks": (pod.get("enableServiceLinks"), False),
        "privileged": (own.get("privileged"), None),
    }
    for what, (found, right) in wanted.items():
        if found != right:
            yield f"{workload.name}: {what} is {found}"
    if not whole.get("runAsUser"):
        yield f"{workload.name}: runs as no user with a number, or as root"
    for field in ("hostNetwork", "hostPID", "hostIPC", "initContainers"):
        if pod.get(field):
            yield f"{workload.name}: {field}"
    for volume in pod["volumes"]:
        if set(volume) - {"name", "emptyDir", "configMap", "secret", "projected"}:
            yield f"{workload.name}: volume {volume['name']} is of another kind"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"{workload.name}: volume {volume['name']} has no bound"


@every_overlay
def test_every_pod_is_restricted(overlay: str) -> None:
    assert [each for workload in workloads(overlay) for each in insecure(workload)] == []


@every_overlay
def test_the_namespace_enforces_it(overlay: str) -> None:
    (namespace,) = (each for each in objects(overlay) if each["kind"] == "Namespace")
    labels = namespace["metadata"]["labels"]
    assert {
        labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")
    } == {"restricted"}


@every_overlay
def test_only_who_asks_the_api_server_has_a_token(overlay: str) -> None:
    tokens = {
        workload.name: workload.pod["automountServiceAccountToken"]
        for workload in workloads(overlay)
    }
    assert {name for name, token in tokens.items() if token} <= CLIENTS_OF_KUBERNETES
    assert tokens["operator"] is True


@every_overlay
def test_every_volume_is_there_and_used(overlay: str) -> None:
    for workload in workloads(overlay):
        mounted = [mount["name"] for mount in workload.container["volumeMounts"]]
        paths = [mount["mountPath"] for mount in workload.container["volumeMounts"]]
        assert sorted(mounted) == sorted(each["name"] for each in workload.pod["volumes"])
        assert len(set(paths)) == len(paths)
        assert "/tmp" in paths


@every_overlay
def test_every_container_has_requests_and_limits(overlay: str) -> None:
    for workload in workloads(overlay):
        resources = workload.container["resources"]
        assert {*resources["requests"], *resources["limits"]} == {"cpu", "memory"}
        for each in (*resources["requests"].values(), *resources["limits"].values()):
            # As the API server writes them, so that a second apply finds nothing to change.
            assert re.fullmatch(r"[1-9]\d{0,2}(m|Mi|Gi)?", each), (workload.name, each)


@every_overlay
def test_every_deployment_has_three_probes_on_a_port_of_its_own(overlay: str) -> None:
    for workload in workloads(overlay):
        if workload.kind == "Job":
            continue
        for name in PROBES:
            probe = workload.container[name]
            (how,) = {"grpc", "httpGet", "tcpSocket", "exec"} & set(probe)
            port = probe[how]["port"]
            assert port in {*workload.ports, *workload.ports.values()}, (workload.name, name)
            assert (how == "grpc") == (workload.name in GRPC)


@every_overlay
def test_liveness_does_not_depend_on_backends(overlay: str) -> None:
    for workload in workloads(overlay):
        if workload.kind == "Job":
            continue
        live, ready = (workload.container[f"{kind}Probe"] for kind in ("liveness", "readiness"))
        if workload.name in GRPC:
            assert live["grpc"]["service"] == "liveness"
            assert "service" not in ready["grpc"]
        elif "httpGet" in live:
            assert live["httpGet"]["path"] in ("/healthz", "/-/healthy")
            assert ready["httpGet"]["path"] in ("/readyz", "/-/ready")
        # A busy process is not a dead one.
        assert live["periodSeconds"] * live["failureThreshold"] >= 30


@every_overlay
def test_every_image_is_pinned_and_ours_is_one(overlay: str) -> None:
    ours = set()
    for workload in workloads(overlay):
        image = workload.container["image"]
        assert re.fullmatch(r"[a-z0-9./-]+:[\w.-]+", image), image
        assert not image.endswith(":latest")
        assert workload.container["imagePullPolicy"] == "IfNotPresent"
        if workload.is_ours:
            ours.add(image)
    assert len(ours) == 1
    assert ours == {f"{IMAGE}:dev"} or overlay == "prod"


@every_overlay
def test_nobody_writes_replicas_where_an_autoscaler_does(overlay: str) -> None:
    for workload in workloads(overlay):
        if workload.name in AUTOSCALED:
            assert "replicas" not in workload.object["spec"]


@every_overlay
def test_jobs_may_be_applied_twice_and_go_on_until_they_are_done(overlay: str) -> None:
    jobs = [each for each in workloads(overlay) if each.kind == "Job"]
    assert jobs
    for job in jobs:
        assert "ttlSecondsAfterFinished" not in job.object["spec"]
        assert job.object["spec"]["backoffLimit"] >= 10
        assert job.pod["restartPolicy"] == "OnFailure"


def test_in_production_each_version_has_a_migration_of_its_own() -> None:
    images = {each.container["image"] for each in workloads("prod") if each.is_ours}
    (image,) = images
    (job,) = (each for each in workloads("prod") if each.kind == "Job")
    assert job.name == f"migrate-{image.rpartition(':')[2]}"


def test_a_pod_that_is_not_restricted_is_found() -> None:
    (good,) = (each for each in workloads("dev") if each.name == "edge")
    bad = {**good.pod, "hostNetwork": True, "securityContext": {}}
    spec = {"template": {**good.template, "spec": bad}}
    found = " ".join(insecure(Workload("dev", {**good.object, "spec": spec})))
    for what in ("hostNetwork", "runAsNonRoot", "seccompProfile", "as root"):
        assert what in found


@pytest.mark.parametrize("overlay", ["dev", "live"])
def test_what_is_simulated_says_so(overlay: str) -> None:
    simulated = {
        each.name for each in workloads(overlay) if each.labels.get("peregrine.dev/simulated")
    }
    assert simulated == {"simulator", "stand-in"}
    assert not any(each.labels.get("peregrine.dev/simulated") for each in workloads("prod"))
