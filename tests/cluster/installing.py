"""Peregrine installed, applied again, and removed, as kubectl does it for a user."""

import time
from pathlib import Path
from typing import Any

from tests.cluster.kubectl import NAMESPACE, Failed, asked, kubectl, until

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 300.0


class Cluster:
    def __init__(self, overlay: Path) -> None:
        self._overlay = str(overlay)

    def install(self) -> str:
        kubectl("apply", "--kustomize", self._overlay)
        return "accepted"

    def become_ready(self) -> str:
        """Every Job complete, every pod ready, and none that had to be started twice."""
        _, seconds = until(
            everything_ready, seconds=READY_SECONDS, what="everything is ready", interval=0.5
        )
        found = pods()
        restarted = {
            each["metadata"]["name"]: status["restartCount"]
            for each in found
            for status in each["status"]["containerStatuses"]
            if status["restartCount"]
        }
        if restarted:
            raise Failed(f"started more than once: {restarted}")
        return f"{len(found)} pods, no restart, after {seconds:.0f} s"

    def apply_again(self) -> str:
        said = kubectl("apply", "--kustomize", self._overlay).splitlines()
        changed = [line for line in said if not line.endswith(" unchanged")]
        if changed:
            raise Failed(f"a second apply changed: {changed}")
        difference = kubectl("diff", "--kustomize", self._overlay, accept=(0, 1))
        if difference:
            raise Failed(f"kubectl diff is not empty:\n{difference[:3000]}")
        return f"{len(said)} objects unchanged, kubectl diff empty"

    def apply_server_side(self) -> str:
        """Twice; the second time nothing changes, nor would a third time."""
        apply = ("apply", "--server-side", "--force-conflicts", "--kustomize", self._overlay)
        kubectl(*apply)
        before = _generations()
        said = kubectl(*apply).splitlines()
        if (after := _generations()) != before:
            changed = {name for name in after if after[name] != before.get(name)}
            raise Failed(f"a second server-side apply changed {changed}")
        difference = kubectl(
            *("diff", "--server-side", "--force-conflicts", "--kustomize", self._overlay),
            accept=(0, 1),
        )
        if difference:
            raise Failed(f"kubectl diff is not empty:\n{difference[:3000]}")
        return f"{len(said)} objects, no generation moved, kubectl diff empty"

    def take_production(self) -> str:
        """The API server would take k8s/overlays/prod as it is; nothing of it is kept."""
        overlay = str(ROOT / "k8s" / "overlays" / "prod")
        apply = ("apply", "--server-side", "--force-conflicts", "--dry-run=server")
        said = kubectl(*apply, "--kustomize", overlay).splitlines()
        return f"{len(said)} objects would be taken"

    def remove(self) -> str:
        for directory in (ROOT / "tests/cluster/crowd/load.yaml", ROOT / "examples"):
            kubectl("delete", "--filename", str(directory), "--ignore-not-found", "--wait=true")
        started = time.monotonic()
        kubectl(
            *("delete", "--kustomize", self._overlay, "--ignore-not-found", "--wait=true"),
            seconds=READY_SECONDS,
        )
        return f"gone after {time.monotonic() - started:.0f} s"


def _generations() -> dict[str, int]:
    kinds = "deployments,services,networkpolicies,jobs,configmaps,poddisruptionbudgets"
    return {
        f"{each['kind']}/{each['metadata']['name']}": int(each["metadata"].get("generation", 0))
        for each in asked("--namespace", NAMESPACE, "get", kinds)["items"]
    }


def pods() -> list[dict[str, Any]]:
    """Those of Deployments; those of Jobs come and go."""
    found: list[dict[str, Any]] = asked("--namespace", NAMESPACE, "get", "pods")["items"]
    return [each for each in found if "job-name" not in each["metadata"]["labels"]]


def everything_ready() -> bool:
    if left := unready():
        raise Failed(f"waiting for {', '.join(left)}")
    return True


def unready() -> list[str]:
    found = asked("--namespace", NAMESPACE, "get", "deployments,jobs")["items"]
    names = [
        f"{each['kind']} {each['metadata']['name']}"
        for each in found
        if not any(
            condition["type"] in ("Available", "Complete") and condition["status"] == "True"
            for condition in each["status"].get("conditions", ())
        )
    ]
    ready = [
        status["ready"]
        for each in pods()
        for status in each["status"].get("containerStatuses", [{"ready": False}])
    ]
    return names if names or all(ready) else ["a pod"]
