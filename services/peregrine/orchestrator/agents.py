"""Agents as runs need them: from PostgreSQL, believed for a second.

An agent applied here is in force here at once, and on every other orchestrator within a second.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import errors
from peregrine.orchestrator import plan
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.store import Store

_BELIEVED_SECONDS = 1.0
_KEPT = 4096

Connect: TypeAlias = Callable[[str, Sequence[str]], Awaitable[object]]

log = structlog.get_logger(__name__)


class Agents:
    """`connect`: has the backends of the named tools of a tenant connected to."""

    def __init__(self, store: Store, metrics: Metrics, *, connect: Connect) -> None:
        self._store = store
        self._connect = connect
        self._metrics = metrics
        self._known: dict[tuple[str, str], tuple[float, pb.Agent]] = {}

    async def get(self, tenant: str, name: str) -> pb.Agent:
        """Raises NotFound: AGENT_NOT_FOUND."""
        known = self._known.get((tenant, name))
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        agent = await self._store.agent(tenant, name) if plan.AGENT_NAME.fullmatch(name) else None
        if agent is None:
            self._known.pop((tenant, name), None)
            raise errors.NotFound(
                f"there is no agent named {name[:64]!r}: `peregrine agents list` names those there"
                " are",
                reason="AGENT_NOT_FOUND",
                metadata={"agent": name[:64]},
            )
        self._keep(tenant, agent)
        return agent

    async def apply(self, tenant: str, agent: pb.Agent, expected_version: int | None) -> pb.Agent:
        plan.check(agent)
        stored = await self._store.apply_agent(tenant, agent, expected_version)
        self._keep(tenant, stored)
        if not plan.resolve(stored.name, stored.spec, pb.RunInput()).lazy_tools:
            try:
                await self._connect(tenant, stored.spec.tools)
            except errors.PeregrineError as error:
                # They will be at the first run.
                log.warning("tools_not_connected", agent=stored.name, reason=error.reason)
        return stored

    async def delete(self, tenant: str, name: str) -> bool:
        self._known.pop((tenant, name), None)
        return await self._store.delete_agent(tenant, name)

    async def list(self, tenant: str, after: str, limit: int) -> list[pb.Agent]:
        return await self._store.agents(tenant, after, limit)

    def _keep(self, tenant: str, agent: pb.Agent) -> None:
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[tenant, agent.name] = (time.monotonic() + _BELIEVED_SECONDS, agent)
        self._metrics.agents.ensure_agent(agent.name, list(agent.spec.tools))
