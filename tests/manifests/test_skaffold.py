"""skaffold.yaml names what is there: overlays, ports, Jobs, source that has a place to go to."""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tests.contract.repository import ROOT, tracked_files
from tests.manifests.rendered import IMAGE, K8S, needs_kubectl, of_kind, workload, workloads

SKAFFOLD: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
PROFILES: dict[str, Any] = {each["name"]: each for each in SKAFFOLD["profiles"]}
SOURCE = "/source"


def artifacts() -> Iterator[dict[str, Any]]:
    for config in (SKAFFOLD, *PROFILES.values()):
        yield from config.get("build", {}).get("artifacts", ())


def matches(path: PurePosixPath, pattern: str) -> bool:
    """`a/**/*` as skaffold reads it: whatever is below `a`."""
    head, _, tail = pattern.partition("/**/")
    return str(path).startswith(f"{head}/") and fnmatch.fnmatch(path.name, tail)


def test_it_is_of_a_version_that_a_current_skaffold_reads() -> None:
    assert re.fullmatch(r"skaffold/v4beta1[1-3]", SKAFFOLD["apiVersion"])
    assert SKAFFOLD["kind"] == "Config"


def test_every_artifact_is_our_image_from_our_dockerfile() -> None:
    found = list(artifacts())
    assert found
    for each in found:
        assert each["image"] == IMAGE
        assert (ROOT / each["docker"]["dockerfile"]).is_file()
        declared = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert set(each["docker"]["buildArgs"]) <= set(declared)


def test_every_overlay_that_it_names_exists() -> None:
    named = [
        path
        for config in (SKAFFOLD, *PROFILES.values())
        for path in config["manifests"]["kustomize"]["paths"]
    ]
    assert all((ROOT / path / "kustomization.yaml").is_file() for path in named)
    assert {Path(path).parent for path in named} == {Path("k8s/overlays")}


def test_what_is_synced_lands_where_the_services_run_from() -> None:
    (rules,) = (each["sync"]["manual"] for each in artifacts() if "sync" in each)
    source = [path.relative_to(ROOT) for path in tracked_files()]
    for root in ("services", "operator"):
        files = [path for path in source if path.parts[0] == root]
        assert files
        for path in files:
            assert any(matches(PurePosixPath(path), rule["src"]) for rule in rules), path
    for rule in rules:
        assert rule["dest"] == SOURCE
        assert "strip" not in rule
        assert any(matches(PurePosixPath(path), rule["src"]) for path in source)


@needs_kubectl
def test_dev_runs_every_service_of_ours_under_the_reloader_from_a_writable_source() -> None:
    assert PROFILES["live"]["activation"] == [{"command": "dev"}]
    for each in workloads("live"):
        if each.kind == "Job":
            continue
        mounts = {mount["mountPath"]: mount for mount in each.container["volumeMounts"]}
        if each.is_ours:
            # Skaffold copies into every container of the image, and gives up where it cannot.
            assert not mounts[SOURCE].get("readOnly")
        dev = workload("dev", each.name)
        if dev.is_ours and dev.program:
            command = each.container["command"]
            assert command[:2] == ["python", "/etc/peregrine/reload/reload.py"]
            assert [*command[2:], *each.container.get("args", ())] == ["-m", *dev.program]
            assert mounts["/etc/peregrine/reload"]["readOnly"]


@needs_kubectl
def test_the_source_is_writable_nowhere_else() -> None:
    for overlay in ("dev", "prod"):
        for each in workloads(overlay):
            assert "reload" not in str(each.object)
            assert SOURCE not in [mount["mountPath"] for mount in each.container["volumeMounts"]]


@needs_kubectl
def test_forwarded_ports_are_ports_of_services() -> None:
    services = of_kind("dev", "Service")
    for each in SKAFFOLD["portForward"]:
        service = services[each["resourceName"]]
        assert each["resourceType"] == "service"
        assert service["metadata"]["namespace"] == each["namespace"]
        assert each["port"] in [port["port"] for port in service["spec"]["ports"]]
    assert {each["resourceName"] for each in SKAFFOLD["portForward"]} >= {"edge", "orchestrator"}


@needs_kubectl
def test_every_job_is_deleted_before_another_image_is_deployed() -> None:
    (hook,) = SKAFFOLD["deploy"]["kubectl"]["hooks"]["before"]
    command = hook["host"]["command"][-1]
    name, _, value = command.partition("delete jobs --selector ")[2].partition("=")
    assert "--namespace peregrine" in command
    for overlay in ("dev", "live", "prod"):
        for each in workloads(overlay):
            if each.kind == "Job":
                assert each.object["metadata"]["labels"][name] == value
                assert each.object["metadata"]["namespace"] == "peregrine"


def test_every_overlay_and_component_is_used() -> None:
    used = {
        (file.parent / name).resolve()
        for file in [*K8S.rglob("kustomization.yaml")]
        for part in ("resources", "components")
        for name in yaml.safe_load(file.read_text()).get(part, ())
    }
    offered = (K8S / "overlays" / "prod" / "kustomization.yaml").read_text()
    for path in (K8S / "components").iterdir():
        assert path.resolve() in used or f"#   - ../../components/{path.name}\n" in offered
