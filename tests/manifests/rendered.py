"""Every overlay as `kubectl kustomize` renders it, offline, and its pods as one kind of thing."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import yaml

from tests.contract.repository import ROOT

Object: TypeAlias = dict[str, Any]

K8S = ROOT / "k8s"
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))
IMAGE = "peregrine"
CONTAINER = "service"
SECRETS = "/etc/peregrine/secrets"
_SECONDS = 60


@functools.cache
def obstacle() -> str:
    """Why nothing can be rendered here; empty when it can."""
    if shutil.which("kubectl") is None:
        return "there is no kubectl here"
    asked = subprocess.run(
        ["kubectl", "version", "--client", "--output", "json"],
        capture_output=True,
        check=False,
        timeout=_SECONDS,
    )
    try:
        version: str = json.loads(asked.stdout)["kustomizeVersion"]
    except (ValueError, KeyError):
        return "kubectl here is older than 1.27 and cannot render components"
    if int(version.removeprefix("v").partition(".")[0]) < 5:
        return f"kubectl here has kustomize {version}, and 5 is needed"
    return ""


needs_kubectl = pytest.mark.skipif(bool(obstacle()), reason=obstacle())
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@functools.cache
def text(path: str) -> str:
    rendered = subprocess.run(
        ["kubectl", "kustomize", str(K8S / path)], capture_output=True, timeout=_SECONDS
    )
    assert rendered.returncode == 0, rendered.stderr.decode()
    return rendered.stdout.decode()


@functools.cache
def objects(overlay: str) -> tuple[Object, ...]:
    return tuple(yaml.safe_load_all(text(f"overlays/{overlay}")))


def of_kind(overlay: str, *kinds: str) -> dict[str, Object]:
    """By name; a name is taken once."""
    found = [each for each in objects(overlay) if each["kind"] in kinds]
    named = {each["metadata"]["name"]: each for each in found}
    assert len(named) == len(found)
    return named


@dataclass(frozen=True)
class Workload:
    """A Deployment or a Job, and the one container of its pods."""

    overlay: str
    object: Object

    @property
    def kind(self) -> str:
        kind: str = self.object["kind"]
        return kind

    @property
    def name(self) -> str:
        name: str = self.object["metadata"]["name"]
        return name

    @property
    def template(self) -> Object:
        template: Object = self.object["spec"]["template"]
        return template

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> Object:
        pod: Object = self.template["spec"]
        return pod

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        assert container["name"] == CONTAINER
        found: Object = container
        return found

    @property
    def is_ours(self) -> bool:
        """It runs our image, not somebody else's."""
        name = self.container["image"].rpartition(":")[0].rpartition("/")[2]
        return bool(name == IMAGE)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}

    @property
    def program(self) -> list[str]:
        """What it runs: the arguments of `python -m peregrine`, or the module after -m."""
        command: list[str] = self.container.get("command") or ["python", "-m", "peregrine"]
        arguments: list[str] = self.container.get("args") or []
        if "-m" not in command:
            return []
        return [*command[command.index("-m") + 1 :], *arguments]

    @property
    def files(self) -> set[str]:
        """Names of the secrets that are mounted as files."""
        (volume,) = [each for each in self.pod["volumes"] if each["name"] == "secrets"] or [{}]
        sources = volume.get("projected", {}).get("sources", [])
        return {
            item["path"] for source in sources for item in source["secret"].get("items", ())
        } | ({item["path"] for item in volume["secret"]["items"]} if "secret" in volume else set())

    def plain_environ(self) -> dict[str, str]:
        """What stands in ConfigMaps and literally; with the names of values from Secrets."""
        maps = of_kind(self.overlay, "ConfigMap")
        environ: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            environ |= maps[source["configMapRef"]["name"]]["data"]
        for each in self.container.get("env", ()):
            environ[each["name"]] = each.get("value", "")
        return environ


def workloads(overlay: str) -> Iterator[Workload]:
    for each in objects(overlay):
        if each["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet", "CronJob", "Pod"):
            assert each["kind"] in ("Deployment", "Job"), each["kind"]
            yield Workload(overlay, each)


def workload(overlay: str, name: str) -> Workload:
    (found,) = [each for each in workloads(overlay) if each.name == name]
    return found
