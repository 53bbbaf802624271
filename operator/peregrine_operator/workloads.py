"""What the API server knows of a Deployment and its pods, and the two things written to them.

The scale is written against the version that was read, so that whoever else changed it in between
is not overwritten unseen. Deletion costs are hints: what cannot be written, or not in time, is a
warning. Pods that the selector finds and another controller made are not the Deployment's.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import structlog

from peregrine_operator import asking, victims
from peregrine_operator.kubernetes import MERGE, ApiError, Kubernetes
from peregrine_operator.victims import Worker

FIELD_MANAGER = "peregrine-operator"
# A worker that has been ready for this long must have been found by a scrape.
SEEN_AFTER = 15.0
_CONFLICTS_BELIEVED = 30.0
_COSTS_SECONDS, _COSTS_AT_ONCE = 3.0, 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    target: str
    """Where it answers calls; empty before it has an address."""
    started: float
    ready_since: float | None
    """Unix seconds; None: it is not ready."""
    terminating: bool
    pending_since: float | None
    cost: int
    mark: int | None
    """The cost that we wrote; another one was written since by somebody else."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment at one moment. `version` is that of its scale, `selector` finds its pods."""

    version: str
    selector: str
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
    """`clock` is monotonic. `port` is where workers answer calls unless their pod names another."""

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
            pods = [
                _pod(each, self._port)
                for each in listed.get("items", ())
                if _made_by(each, deployment) and not _ended(each)
            ]
        return Workload(
            version=str(scale.get("metadata", {}).get("resourceVersion", "")),
            selector=selector,
            replicas=int(scale.get("spec", {}).get("replicas", 0)),
            pods=tuple(pods),
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
        ready = {
            pod.name: pod.target
            for pod in workload.living
            if pod.target and pod.ready_since is not None
        }
        answered = await asking.inflight(ready)
        return [
            Worker(
                name=pod.name,
                ready=pod.ready_since is not None,
                started=pod.started,
                inflight=answered.get(pod.name),
                cost=pod.cost,
            )
            for pod in workload.living
        ]

    async def set_costs(self, namespace: str, costs: Mapping[str, int]) -> None:
        """In the order given, as far as it goes in three seconds."""
        await self._annotate(namespace, {pod: victims.annotations(c) for pod, c in costs.items()})

    async def clear_costs(self, namespace: str, pods: Iterable[Pod]) -> None:
        """Takes away the costs that we wrote; where somebody else wrote since, only the mark."""
        everything, mark = victims.annotations(None), {victims.OURS: None}
        written = {pod.name: everything if pod.mark == pod.cost else mark for pod in pods}
        await self._annotate(namespace, written)

    async def _annotate(
        self, namespace: str, annotations: Mapping[str, Mapping[str, str | None]]
    ) -> None:
        gate = asyncio.Semaphore(_COSTS_AT_ONCE)

        async def one(pod: str, written: Mapping[str, str | None]) -> None:
            path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}"
            body = {"metadata": {"annotations": written}}
            async with gate:
                try:
                    await self._kubernetes.request("PATCH", path, body=body, content_type=MERGE)
                except ApiError as error:
                    log.warning("deletion_cost_not_written", pod=pod, error=error)

        try:
            async with asyncio.timeout(_COSTS_SECONDS), asyncio.TaskGroup() as group:
                for pod, written in annotations.items():
                    group.create_task(one(pod, written))
        except TimeoutError:
            log.warning("deletion_costs_not_written_in_time", pods=len(annotations))

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


def _made_by(body: Mapping[str, Any], deployment: str) -> bool:
    """Whether a pod is of this Deployment: of one of its ReplicaSets, or of no controller."""
    metadata = body.get("metadata", {})
    template = (metadata.get("labels") or {}).get("pod-template-hash", "")
    makers = [each for each in metadata.get("ownerReferences") or () if each.get("controller")]
    return all(
        (each.get("kind"), each.get("name")) == ("ReplicaSet", f"{deployment}-{template}")
        for each in makers
    )


def _ended(body: Mapping[str, Any]) -> bool:
    return body.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _pod(body: Mapping[str, Any], port: int) -> Pod:
    metadata, status = body.get("metadata", {}), body.get("status", {})
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    scheduled = conditions.get("PodScheduled", {})
    created = _seconds(metadata.get("creationTimestamp"))
    unscheduled = status.get("phase") == "Pending" and scheduled.get("status") != "True"
    annotations = metadata.get("annotations") or {}
    return Pod(
        name=str(metadata.get("name", "")),
        target=_target(body, port),
        started=created,
        ready_since=(
            _seconds(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None
        ),
        terminating=bool(metadata.get("deletionTimestamp")),
        pending_since=created if unscheduled else None,
        cost=_integer(annotations.get(victims.ANNOTATION)) or 0,
        mark=_integer(annotations.get(victims.OURS)),
    )


def _target(body: Mapping[str, Any], port: int) -> str:
    """At the port that the pod calls `grpc`, else at the one that all workers have."""
    address = str(body.get("status", {}).get("podIP") or "")
    ports = (
        each["containerPort"]
        for container in body.get("spec", {}).get("containers", ())
        for each in container.get("ports") or ()
        if each.get("name") == "grpc"
    )
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{next(ports, port)}" if address else ""


def _integer(text: object) -> int | None:
    try:
        return int(str(text))
    except ValueError:
        return None


def _seconds(time: object) -> float:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return 0.0
