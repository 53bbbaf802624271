"""One term of office: what runs from the moment that the lease is ours until it is lost.

A term begins with nothing in memory and a full list, so it makes no difference who worked before.
Nothing is decided before the first list is in, because which of two resources was first can only be
told when all are known.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from peregrine_operator import view as views
from peregrine_operator.handlers import Watches
from peregrine_operator.kubernetes import PLURALS, ApiError, Kubernetes, Login
from peregrine_operator.liveness import Health
from peregrine_operator.metrics import KINDS, Metrics
from peregrine_operator.reconciling import Reconciler
from peregrine_operator.services import Services
from peregrine_operator.view import Object, View
from peregrine_operator.work import Work

APPLIED = ("Agent", "Tool")
_FIRST_AGAIN_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Term:
    """Args:
    background: what runs besides, for ever, while the term lasts.
    namespaces: none means all.
    resync: seconds between two full looks.
    workers: resources that are looked at at the same time.
    """

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        login: Callable[[], Login],
        services: Services,
        view: View,
        work: Work,
        reconciler: Reconciler,
        background: Sequence[Callable[[], Coroutine[Any, Any, None]]],
        health: Health,
        metrics: Metrics,
        namespaces: Sequence[str],
        resync: float,
        workers: int,
    ) -> None:
        self._kubernetes = kubernetes
        self._services = services
        self._view = view
        self._work = work
        self._reconciler = reconciler
        self._background = tuple(background)
        self._health = health
        self._metrics = metrics
        self._namespaces: Sequence[str | None] = tuple(namespaces) or (None,)
        self._resync = resync
        self._workers = workers
        self._watches = Watches(
            namespaces=namespaces, changed=self._changed, login=login, metrics=metrics
        )
        health.watches_failing_for = lambda: self._watches.failing_for

    async def run(self) -> None:
        """For ever."""
        await self._crds()
        while True:
            if await self.look_at_all(first=True):
                break
            await asyncio.sleep(_FIRST_AGAIN_SECONDS)
        self._health.started = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watches.run(), name="watches")
            group.create_task(self._look_again(), name="resync")
            group.create_task(self._reconciler.run(self._workers), name="reconciler")
            for work in self._background:
                group.create_task(work(), name=work.__qualname__)

    async def look_at_all(self, *, first: bool = False) -> bool:
        """Lists everything, here and in the services, and asks for a look at each resource."""
        try:
            for kind in KINDS:
                await self._list(kind, first=first)
        except ApiError as error:
            log.warning("resources_not_listed", error=error)
            return False
        self._health.listed = self._health.clock()
        self._metrics.last_list.set(time.time())
        await self._services.refresh()
        self._count()
        for one in self._view:
            if one.key.kind in APPLIED:
                self._work.add(one.key)
        return True

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._resync)
            await self.look_at_all()

    async def _list(self, kind: str, *, first: bool) -> None:
        found: list[Object] = []
        version = ""
        for namespace in self._namespaces:
            bodies, version = await self._kubernetes.list(kind, namespace)
            found += [views.read(kind, body) for body in bodies]
        for one in found:
            known = self._view.get(one.key)
            if not first and (known is None or known.version < one.version):
                self._watches.listed(one)
        before = {each.key for each in self._view.of(kind)}
        self._view.replace(kind, self._namespaces, found, views.number(version))
        for gone in before - {each.key for each in self._view.of(kind)}:
            self._watches.forget(gone)

    def _changed(self, event: str, one: Object) -> None:
        concerned = self._view.remove(one) if event == "DELETED" else self._view.put(one)
        for key in concerned:
            if key.kind in APPLIED:
                self._work.add(key)

    async def _crds(self) -> None:
        told = False
        while True:
            try:
                missing = set(PLURALS.values()) - await self._kubernetes.kinds()
            except ApiError as error:
                log.warning("kinds_not_listed", error=error)
            else:
                if not missing:
                    return
                if not told:
                    log.warning("waiting_for_crds", missing=sorted(missing))
                told = True
                # The API server answers: that there is nothing to list yet is no sickness.
                self._health.listed = self._health.clock()
            await asyncio.sleep(_FIRST_AGAIN_SECONDS)

    def _count(self) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        for one in self._view:
            conditions = one.status.get("conditions") or ()
            ready = next((each["status"] for each in conditions if each["type"] == "Ready"), None)
            counts[one.key.kind, ready or "Unknown"] += 1
        for kind in KINDS:
            for ready in ("True", "False", "Unknown"):
                self._metrics.resources.labels(kind, ready).set(counts[kind, ready])
