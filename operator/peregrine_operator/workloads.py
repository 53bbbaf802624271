"""What the API server knows of a Deployment and its pods, and the two things written to them.

The scale is written against the version that was read, so that whoever else changed it in between
is not overwritten unseen. Deletion costs are hints: what cannot be written is a warning.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import structlog

from peregrine.client import ToolsClient
from peregrine.kit.errors import PeregrineError
from peregrine_operator.kubernetes import MERGE, ApiError, Kubernetes
from peregrine_operator.victims import ANNOTATION, Worker

FIELD_MANAGER = "peregrine-operator"
# A worker that has been ready for this long must have been found by a scrape.
SEEN_AFTER = 15.0
_CONFLICTS_BELIEVED = 30.0
_ASK_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    address: str
    started: float
    ready_since: float | None
    """Unix seconds; None: it is not ready."""
    terminating: bool
    pending_since: float | None
    cost: int


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment at one moment. `version` is that of its scale."""

    version: str
    replicas: int
    pods: tuple[Pod, ...]

    @property
    def living(self) -> list[Pod]:
        return [pod for pod in self.pods if not pod.terminating]

    @property
    def ready(self) -> int:
        return sum(pod.ready_since is not None for pod in self.living)

    @property
    def draining(self) -> int:
        return len(self.pods) - len(self.living)

    @property
    def pending_since(self) -> float | None:
        since = [pod.pending_since for pod in self.living if pod.pending_since is not None]
        return min(since, default=None)

    def seen(self, now: float) -> int:
        """Workers that Prometheus has to know by now."""
        since = (pod.ready_since for pod in self.living)
        return sum(each is not None and now - each >= SEEN_AFTER for each in since)


class Workloads:
    """`clock` is monotonic. `port` is where workers answer calls."""

    def __init__(self, *, kubernetes: Kubernetes, port: int, clock: Callable[[], float]) -> None:
        self._kubernetes = kubernetes
        self._port = port
        self._clock = clock
        self._scalers: dict[str, tuple[float, dict[str, str]]] = {}

    async def read(self, namespace: str, deployment: str) -> Workload:
        """Raises ApiError: NotFound, Forbidden …"""
        scale = await self._kubernetes.request("GET", _scale(namespace, deployment))
        selector = str(scale.get("status", {}).get("selector", ""))
        pods: list[Pod] = []
        if selector:
            path = f"/api/v1/namespaces/{quote(namespace)}/pods"
            listed = await self._kubernetes.request("GET", path, params={"labelSelector": selector})
            pods = [_pod(each) for each in listed.get("items", ())]
        return Workload(
            version=str(scale.get("metadata", {}).get("resourceVersion", "")),
            replicas=int(scale.get("spec", {}).get("replicas", 0)),
            pods=tuple(pod for pod in pods if pod.name),
        )

    async def scale(self, namespace: str, deployment: str, workload: Workload, to: int) -> None:
        """Raises ApiError: Conflict, when somebody wrote since `workload` was read."""
        metadata = {"resourceVersion": workload.version} if workload.version else {}
        await self._kubernetes.request(
            "PATCH",
            _scale(namespace, deployment),
            body={"metadata": metadata, "spec": {"replicas": to}},
            params={"fieldManager": FIELD_MANAGER},
            content_type=MERGE,
        )

    async def scaler(self, namespace: str, deployment: str) -> str:
        """The autoscaler of somebody else with the same target, empty when there is none."""
        known = self._scalers.get(namespace)
        if known is None or self._clock() - known[0] > _CONFLICTS_BELIEVED:
            known = self._clock(), await self._list_scalers(namespace)
            self._scalers[namespace] = known
        return known[1].get(deployment, "")

    async def workers(self, workload: Workload) -> list[Worker]:
        """Every living pod, with what runs on it at this moment as it says itself."""
        living = workload.living
        asked = await asyncio.gather(*(self._inflight(pod) for pod in living))
        return [
            Worker(
                name=pod.name,
                ready=pod.ready_since is not None,
                started=pod.started,
                inflight=inflight,
                cost=pod.cost,
            )
            for pod, inflight in zip(living, asked, strict=True)
        ]

    async def set_costs(self, namespace: str, costs: Mapping[str, int]) -> None:
        for pod, cost in costs.items():
            path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}"
            body = {"metadata": {"annotations": {ANNOTATION: str(cost)}}}
            try:
                await self._kubernetes.request("PATCH", path, body=body, content_type=MERGE)
            except ApiError as error:
                log.warning("deletion_cost_not_written", pod=pod, error=error)

    async def _inflight(self, pod: Pod) -> int | None:
        if not pod.address or pod.ready_since is None:
            return None
        host = f"[{pod.address}]" if ":" in pod.address else pod.address
        client = ToolsClient(f"{host}:{self._port}", connections=1, timeout=_ASK_SECONDS)
        try:
            async with asyncio.timeout(_ASK_SECONDS), client:
                stats = await client.get_execution_stats()
                return int(stats.in_flight + stats.queued)
        except (PeregrineError, TimeoutError) as error:
            log.info("worker_not_asked", pod=pod.name, error=type(error).__name__)
            return None

    async def _list_scalers(self, namespace: str) -> dict[str, str]:
        where = f"namespaces/{quote(namespace)}"
        found: dict[str, str] = {}
        for path, kind in (
            (f"/apis/autoscaling/v2/{where}/horizontalpodautoscalers", "HorizontalPodAutoscaler"),
            (f"/apis/keda.sh/v1alpha1/{where}/scaledobjects", "ScaledObject"),
        ):
            try:
                listed = await self._kubernetes.request("GET", path)
            except ApiError as error:
                if error.status == 404:
                    continue  # no such kind here
                raise
            for each in listed.get("items", ()):
                target = each.get("spec", {}).get("scaleTargetRef", {})
                if target.get("kind", "Deployment") == "Deployment":
                    found[str(target.get("name"))] = f"{kind} {each['metadata']['name']}"
        return found


def _scale(namespace: str, deployment: str) -> str:
    where = f"/apis/apps/v1/namespaces/{quote(namespace)}/deployments"
    return f"{where}/{quote(deployment)}/scale"


def _pod(body: Mapping[str, Any]) -> Pod:
    metadata, status = body.get("metadata", {}), body.get("status", {})
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    scheduled = conditions.get("PodScheduled", {})
    created = _seconds(metadata.get("creationTimestamp"))
    unscheduled = status.get("phase") == "Pending" and scheduled.get("status") != "True"
    cost = (metadata.get("annotations") or {}).get(ANNOTATION, "")
    ended = status.get("phase") in ("Succeeded", "Failed")
    return Pod(
        name="" if ended else str(metadata.get("name", "")),
        address=str(status.get("podIP", "")),
        started=created,
        ready_since=(
            _seconds(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None
        ),
        terminating=bool(metadata.get("deletionTimestamp")),
        pending_since=created if unscheduled else None,
        cost=int(cost) if cost.lstrip("-").isdecimal() else 0,
    )


def _seconds(time: object) -> float:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return 0.0
