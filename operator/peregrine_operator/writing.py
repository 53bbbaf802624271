"""The one place that writes to the API server: statuses, finalizers and Events.

A status is written only when it says something new. The answer goes into the view at once, so that
the next look does not take our own change for news.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import structlog

from peregrine_operator import view
from peregrine_operator.decisions import FINALIZER, Ready
from peregrine_operator.kubernetes import GROUP, VERSION, ApiError, Kubernetes
from peregrine_operator.metrics import Metrics
from peregrine_operator.view import Object, View

_MAX_NOTE = 1000
_MAX_EVENTS = 1000
CONTROLLER = f"{GROUP}/operator"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """What people read in `kubectl describe`. `warning` for what needs somebody."""

    reason: str
    message: str
    warning: bool = False


class Gone(Exception):
    """The resource does not exist any more."""


class Writer:
    """`instance` names this process in Events; `clock` gives the time of day."""

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        view: View,
        metrics: Metrics,
        instance: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kubernetes = kubernetes
        self._view = view
        self._instance = instance
        self._clock = clock
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_EVENTS)
        self._metrics = metrics

    def conditions(self, one: Object, conditions: Mapping[str, Ready]) -> list[dict[str, Any]]:
        """The conditions of a status: a time changes only when True, False or Unknown does."""
        before = {each.get("type"): each for each in one.status.get("conditions") or ()}
        made = []
        for name, said in conditions.items():
            old = before.get(name, {})
            since = old.get("lastTransitionTime") if old.get("status") == said.status else None
            made.append(
                {
                    "type": name,
                    "status": said.status,
                    "reason": said.reason,
                    "message": said.message,
                    "observedGeneration": one.generation,
                    "lastTransitionTime": since or seconds(self._clock()),
                }
            )
        return made

    async def status(self, one: Object, status: Mapping[str, Any]) -> Object:
        """Makes `status` the whole status. Raises Gone, ApiError."""
        if status == one.status:
            return one
        whole = _merging(one.status, status)
        # The uid, so that a resource of the same name that came since is not told of the other.
        body = {"metadata": {"uid": one.uid}, "status": whole}
        return await self._patch(one, body, status=True)

    async def finalizer(self, one: Object, *, present: bool) -> Object:
        """Adds or removes our finalizer, if nobody else wrote since `one` was read."""
        others = [each for each in one.finalizers if each != FINALIZER]
        metadata: dict[str, Any] = {"finalizers": [*others, FINALIZER] if present else others}
        if one.version:
            metadata |= {"uid": one.uid, "resourceVersion": str(one.version)}
        return await self._patch(one, {"metadata": metadata}, status=False)

    def tell(self, one: Object, event: Event) -> None:
        """Has an Event posted, soon; nobody waits for it, because the status says the same."""
        now = self._clock()
        key = one.key
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{key.name}.{secrets.token_hex(8)}",
                "namespace": key.namespace,
            },
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": "Warning" if event.warning else "Normal",
            "reason": event.reason,
            "note": event.message[:_MAX_NOTE],
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": one.uid,
            },
        }
        try:
            self._events.put_nowait(body)
        except asyncio.QueueFull:
            self._metrics.events_dropped.inc()

    async def post_events(self) -> None:
        """Posts what is told, for ever."""
        while True:
            body = await self._events.get()
            namespace = quote(body["metadata"]["namespace"])
            path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
            try:
                await self._kubernetes.request("POST", path, body=body)
            except ApiError as error:
                log.warning("event_not_posted", reason=body["reason"], error=error)

    async def _patch(self, one: Object, body: Mapping[str, Any], *, status: bool) -> Object:
        try:
            answer = await self._kubernetes.patch(one.key, body, status=status)
        except ApiError as error:
            if error.status == 404:
                self._view.remove(one)
                raise Gone(str(one.key)) from None
            if error.status == 409:
                await self._read_again(one)
            raise
        written = view.read(one.key.kind, answer)
        if written.deleting and not written.finalizers:
            self._view.remove(one)
        else:
            self._view.put(written)
        return written

    async def _read_again(self, one: Object) -> None:
        try:
            body = await self._kubernetes.request("GET", one.key.path)
        except ApiError as error:
            if error.status == 404:
                self._view.remove(one)
            return
        self._view.put(view.read(one.key.kind, body))


def _merging(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What makes `after` of `before` when it is merged: all of it, and null for what goes, however
    deep, because a merge keeps what it is not told of."""
    merged = dict.fromkeys(before)
    for key, value in after.items():
        known = before.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = _merging(known, value)
        merged[key] = value
    return merged


def instant(time: float) -> str:
    """Unix seconds as Kubernetes writes a time."""
    return seconds(datetime.fromtimestamp(time, UTC))


def seconds(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
