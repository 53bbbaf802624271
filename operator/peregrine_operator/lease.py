"""One operator works, others stand by: a Lease of coordination.k8s.io says which.

As client-go does it: the holder renews every few seconds; who wants the lease takes it when the
record has not changed for as long as it says it lasts, by the watcher's own clock, so that clocks
need not agree; each write names the version it read, so of two that try only one succeeds. A holder
that could not renew in time stops its work before anybody else may begin.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import structlog

from peregrine_operator.kubernetes import MERGE, ApiError, Kubernetes

DURATION, RENEW_EVERY, RENEW_WITHIN = 15.0, 4.0, 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """The record as last read, and when it was first seen like that (monotonic seconds)."""

    version: str
    holder: str
    lasts: float
    since: float


def may_take(seen: Seen | None, me: str, now: float) -> bool:
    """Whether `me` may write itself into the record."""
    if seen is None or not seen.holder or seen.holder == me:
        return True
    return now - seen.since > seen.lasts


class Lease:
    """`me` is unique to this process. `clock` is monotonic."""

    def __init__(
        self,
        *,
        kubernetes: Kubernetes,
        namespace: str,
        name: str,
        me: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._name = name
        self._me = me
        self._clock = clock
        self._wall = wall
        self._seen: Seen | None = None
        self._body: dict[str, Any] = {}
        self.beat = clock()
        """When the record was last read or written, monotonic."""

    async def acquire(self) -> None:
        """Returns when the lease is ours."""
        told = ""
        while True:
            try:
                await self._look()
                if may_take(self._seen, self._me, self._clock()):
                    await self._write(self._me)
                    log.info("lease_acquired", lease=self._name, me=self._me)
                    return
                holder = self._seen.holder if self._seen else ""
                if holder != told:
                    log.info("standing_by", lease=self._name, holder=holder)
                told = holder
            except ApiError as error:
                if error.status != 409:
                    log.warning("lease_not_acquired", lease=self._name, error=error)
            await asyncio.sleep(RENEW_EVERY / 2)

    async def keep(self) -> None:
        """Renews the lease; returns when it is lost."""
        renewed = self._clock()
        while self._clock() - renewed < RENEW_WITHIN:
            await asyncio.sleep(RENEW_EVERY)
            try:
                async with asyncio.timeout(max(renewed + RENEW_WITHIN - self._clock(), 0.1)):
                    await self._write(self._me)
                renewed = self._clock()
            except ApiError as error:
                log.warning("lease_not_renewed", lease=self._name, error=error)
                if error.status == 409 and await self._lost():
                    return
            except TimeoutError:
                log.warning("lease_not_renewed", lease=self._name, error="no answer in time")
        log.error("lease_lost", lease=self._name)

    async def release(self) -> None:
        """Lets the next one in at once. A failure only makes it wait."""
        try:
            await self._write("")
        except ApiError as error:
            log.info("lease_not_released", lease=self._name, error=error)

    async def _lost(self) -> bool:
        """After a conflict: whether somebody else holds it."""
        try:
            await self._look()
        except ApiError:
            return False
        lost = self._seen is None or self._seen.holder != self._me
        if lost:
            log.error(
                "lease_lost", lease=self._name, holder=self._seen.holder if self._seen else ""
            )
        return lost

    async def _look(self) -> None:
        try:
            self._read(await self._kubernetes.request("GET", self._path))
        except ApiError as error:
            if error.status != 404:
                raise
            self._seen, self._body = None, {}
            self.beat = self._clock()

    def _read(self, body: dict[str, Any]) -> None:
        now = self._clock()
        spec = body.get("spec") or {}
        version = str(body.get("metadata", {}).get("resourceVersion", ""))
        holder = str(spec.get("holderIdentity") or "")
        if self._seen is None or (version, holder) != (self._seen.version, self._seen.holder):
            lasts = float(spec.get("leaseDurationSeconds") or DURATION)
            self._seen = Seen(version, holder, lasts, now)
        self._body = body
        self.beat = now

    async def _write(self, holder: str) -> None:
        now = self._wall().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._body.get("spec") or {}
        passed_on = bool(holder) and before.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(DURATION),
            "acquireTime": now if passed_on else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + passed_on,
        }
        if self._body:
            version = self._body.get("metadata", {}).get("resourceVersion")
            change = {"metadata": {"resourceVersion": version}, "spec": spec}
            written = await self._kubernetes.request(
                "PATCH", self._path, body=change, content_type=MERGE
            )
        else:
            parent = self._path.rpartition("/")[0]
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": spec,
            }
            written = await self._kubernetes.request("POST", parent, body=body)
        self._read(written)

    @property
    def _path(self) -> str:
        where = f"/apis/coordination.k8s.io/v1/namespaces/{quote(self._namespace)}/leases"
        return f"{where}/{quote(self._name)}"
