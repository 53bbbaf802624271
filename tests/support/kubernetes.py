"""An API server for tests: kmock's emulator, with the metadata that the real one looks after.

It gives resources their uid, versions and generation, keeps `status` apart from the rest, and
refuses a write that names an old version or another uid. `ApiServer.login` is what the operator is
given for a service account.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp.web
import kmock
import kopf
from kmock import KubernetesEmulator, Server

from peregrine_operator.kubernetes import GROUP, PLURALS, VERSION, Key

OTHERS = (
    "coordination.k8s.io/v1/leases",
    "events.k8s.io/v1/events",
    "apps/v1/deployments",
    "v1/pods",
    "autoscaling/v2/horizontalpodautoscalers",
)


class Conflict(kmock.KubernetesError):
    pass


class ApiServer(KubernetesEmulator):
    """`versions` count over all resources, as etcd's do."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.versions = itertools.count(1)
        self.refusing: int = 0
        # Done once, just before the next write of a scale; and whether answers to those are lost.
        self.before_scale: Callable[[], Awaitable[None]] | None = None
        self.losing_scales = False
        # Told name and body of each change of a pod, and whether those are refused.
        self.pod_written: Callable[[str, dict[str, Any]], None] = lambda name, body: None
        self.refusing_pods = False
        self.refusing_scales = False
        for plural in PLURALS.values():
            self.resources[f"{GROUP}/{VERSION}/{plural}"] = {
                "namespaced": True,
                "verbs": {"create", "delete", "get", "list", "patch", "watch"},
            }
        for name in OTHERS:
            self.resources[name] = {"namespaced": True}
        self.resources["v1/namespaces"] = {"namespaced": False}
        self.resources["apiextensions.k8s.io/v1/customresourcedefinitions"] = {"namespaced": False}

    async def _handle(self, request: Any) -> aiohttp.web.StreamResponse:
        if self.refusing:
            raise kmock.KubernetesError(status=self.refusing, reason="Refused", message="not now")
        action = getattr(request.action, "value", None)
        scaling = action == "UPDATE" and request.subresource == "scale"
        if scaling and self.before_scale is not None:
            meddle, self.before_scale = self.before_scale, None
            await meddle()
        if self.refusing_scales and request.subresource == "scale":
            raise kmock.KubernetesError(status=403, reason="Forbidden", message="no")
        if action == "UPDATE" and request.resource.plural == "pods":
            if self.refusing_pods:
                raise kmock.KubernetesError(status=403, reason="Forbidden", message="no")
            self.pod_written(request.name, request.data)
        if action == "CREATE":
            self._created(request.data)
        elif action in ("UPDATE", "DELETE") and request.name is not None:
            stored = self._stored(request)
            if stored is not None and action == "DELETE":
                stored.patch({"metadata": {"resourceVersion": self._version()}})
            elif stored is not None:
                self._updated(request, stored)
        response = await super()._handle(request)
        if scaling and self.losing_scales:
            raise kmock.KubernetesError(status=504, reason="Timeout", message="too late")
        return response

    # ---- What a test does ----

    async def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """As `kubectl apply`: creates a resource, or replaces its spec."""
        key = key_of(body)
        existing = self.kept(key)
        if existing is None:
            path = key.path.rpartition("/")[0]
            async with self.post(path, json=dict(body)) as response:
                assert response.status < 300, await response.text()
                made: dict[str, Any] = await response.json()
                return made
        gone = dict.fromkeys(existing["spec"])
        async with self.patch(key.path, json={"spec": {**gone, **body["spec"]}}) as response:
            assert response.status < 300, await response.text()
            changed: dict[str, Any] = await response.json()
            return changed

    async def remove(self, key: Key) -> None:
        """As `kubectl delete --wait=false`."""
        async with self.delete(key.path) as response:
            assert response.status < 300, await response.text()

    def kept(self, key: Key) -> Any:
        """The resource as it is, or None."""
        for (resource, namespace, name), stored in self.objects.items():
            same = (namespace, name) == (key.namespace, key.name)
            if same and resource.plural == PLURALS[key.kind] and not stored.deleted:
                return stored.raw
        return None

    def ready(self, key: Key) -> tuple[str, str]:
        """Status and reason of the condition Ready; empty before there is one."""
        conditions = ((self.kept(key) or {}).get("status") or {}).get("conditions") or ()
        for each in conditions:
            if each["type"] == "Ready":
                return each["status"], each["reason"]
        return "", ""

    def message(self, key: Key) -> str:
        (ready,) = self.kept(key)["status"]["conditions"]
        return str(ready["message"])

    def events(self, reason: str = "") -> list[dict[str, Any]]:
        """Events posted so far, oldest first."""
        found = [
            stored.raw
            for (resource, _, _), stored in self.objects.items()
            if resource.plural == "events"
        ]
        return [each for each in found if reason in ("", each["reason"])]

    def deployment(self, name: str, *, replicas: int, namespace: str = "one") -> None:
        """A Deployment, its own scale as well, with as many ready pods."""
        metadata = {"name": name, "namespace": namespace, "resourceVersion": self._version()}
        self.objects["apps/v1/deployments", namespace, name] = {
            "metadata": metadata,
            "spec": {"replicas": replicas},
            "status": {"selector": f"app={name}"},
        }
        for number in range(replicas):
            self.pod(f"{name}-{number}", of=name, namespace=namespace)

    def pod(
        self,
        name: str,
        *,
        of: str = "",
        namespace: str = "one",
        port: int | None = None,
        annotations: Mapping[str, str] | None = None,
        **status: Any,
    ) -> None:
        """A ready pod, of a ReplicaSet of the Deployment `of`, or of nobody."""
        since = "2026-01-01T00:00:00Z"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": since}
        ports = [{"name": "grpc", "containerPort": port}] if port is not None else []
        maker = {"kind": "ReplicaSet", "name": f"{of}-abc", "controller": True}
        self.objects["v1/pods", namespace, name] = {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "creationTimestamp": since,
                "labels": {"pod-template-hash": "abc"},
                "annotations": dict(annotations or {}),
                "ownerReferences": [maker] if of else [],
            },
            "spec": {"containers": [{"name": "service", "ports": ports}]},
            "status": {"phase": "Running", "podIP": "127.0.0.1", "conditions": [ready], **status},
        }

    def pods(self, namespace: str = "one") -> dict[str, Any]:
        """All pods of a namespace, by name."""
        return {
            name: stored.raw
            for (resource, where, name), stored in self.objects.items()
            if resource.plural == "pods" and where == namespace and not stored.deleted
        }

    def obey(self, deployment: str, *, namespace: str = "one") -> None:
        """What the controllers of a cluster do: as many ready pods as replicas, at once."""
        cost = "controller.kubernetes.io/pod-deletion-cost"
        maker = f"{deployment}-abc"
        pods = {
            name: int((raw["metadata"].get("annotations") or {}).get(cost, 0))
            for name, raw in self.pods(namespace).items()
            if any(each["name"] == maker for each in raw["metadata"]["ownerReferences"])
        }
        wanted = self.replicas(deployment, namespace=namespace)
        for name in sorted(pods, key=lambda each: pods[each])[: max(len(pods) - wanted, 0)]:
            del self.objects["v1/pods", namespace, name]
        for _ in range(wanted - len(pods)):
            self.pod(f"{deployment}-{self._version()}", of=deployment, namespace=namespace)

    def replicas(self, name: str, *, namespace: str = "one") -> int:
        return int(self.objects["apps/v1/deployments", namespace, name].raw["spec"]["replicas"])

    def login(self) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=str(self.url), default_namespace="peregrine")

    # ---- Metadata ----

    def _version(self) -> str:
        return str(next(self.versions))

    def _created(self, body: dict[str, Any]) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = body.setdefault("metadata", {})
        metadata.setdefault("creationTimestamp", now)
        metadata |= {"resourceVersion": self._version(), "generation": 1}
        metadata["uid"] = f"uid-{metadata['resourceVersion']}"

    def _updated(self, request: Any, stored: Any) -> None:
        before = stored.raw
        body = request.data
        given = body.get("metadata", {})
        for field in ("resourceVersion", "uid"):
            if given.get(field) not in (None, before["metadata"].get(field)):
                raise Conflict(status=409, reason="Conflict", message="the object was modified")
        if request.subresource == "status":
            for other in set(body) - {"status"}:
                del body[other]
        else:
            body.pop("status", None)
        metadata = body.setdefault("metadata", {})
        metadata["resourceVersion"] = self._version()
        if "spec" in body:
            metadata["generation"] = before["metadata"].get("generation", 0) + 1

    def _stored(self, request: Any) -> Any:
        for (resource, namespace, name), stored in self.objects.items():
            same = (namespace, name) == (request.namespace, request.name)
            if same and resource == request.resource and not stored.deleted:
                return stored
        return None


def key_of(body: Mapping[str, Any]) -> Key:
    return Key(body["kind"], body["metadata"]["namespace"], body["metadata"]["name"])


@asynccontextmanager
async def api_server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as api, Server(api):
        yield api
