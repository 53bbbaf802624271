"""PostgreSQL: agents and runs.

A run's row says what was asked and how it ended; what happened in between is its log. Rows are
read and written as their tenant and user, except by the owner of runs at work (`ALL_TENANTS`):
take-over, cancel flags, the end of a run.
"""

import base64
import datetime
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import errors
from peregrine.kit.context import Identity
from peregrine.kit.eventlog import Also
from peregrine.kit.postgres import ALL_TENANTS, Database, Record

# How long a request id is honoured.
_REQUEST_ID_LIFE = datetime.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class NewRun:
    """What is written when a run is accepted."""

    run_id: uuid.UUID
    identity: Identity
    agent: pb.Agent
    conversation_id: uuid.UUID
    new_conversation: bool
    request_digest: bytes
    input: pb.RunInput
    max_duration: float


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as a new owner finds it. `remaining` is seconds to its deadline, by database time."""

    run_id: uuid.UUID
    identity: Identity
    agent: str
    agent_version: int
    spec: pb.AgentSpec
    conversation_id: uuid.UUID
    new_conversation: bool
    input: pb.RunInput
    cancel_requested: bool
    age: float
    remaining: float


class Store:
    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- agents ----

    async def apply_agent(
        self, tenant: str, agent: pb.Agent, expected_version: int | None
    ) -> pb.Agent:
        """Creates or replaces an agent; the same definition again changes nothing.

        Raises:
          Aborted: VERSION_STALE, when the stored version is not the expected one.
        """
        spec = agent.spec.SerializeToString(deterministic=True)
        async with self._database.transaction(tenant) as conn:
            # Two first applications of one name wait for one another here, not at the primary key.
            await conn.execute(
                "agent_lock",
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                f"agent/{tenant}/{agent.name}",
            )
            row = await conn.fetchrow(
                "agent_get", "SELECT * FROM orchestrator.agents WHERE name = $1", agent.name
            )
            version = row["version"] if row else 0
            if expected_version is not None and version != expected_version:
                raise errors.Aborted(
                    f"the agent is at version {version}, not {expected_version}: read it again",
                    reason="VERSION_STALE",
                    metadata={"version": str(version)},
                )
            if row is None or row["spec"] != spec:
                row = await conn.fetchrow(
                    "agent_put",
                    "INSERT INTO orchestrator.agents (tenant, name, version, spec)"
                    " VALUES ($1, $2, 1, $3)"
                    " ON CONFLICT (tenant, name) DO UPDATE"
                    " SET spec = excluded.spec, version = agents.version + 1, update_time = now()"
                    " RETURNING *",
                    tenant,
                    agent.name,
                    spec,
                )
        if row is None:
            raise errors.Internal("the agent was not written", reason="AGENT_NOT_WRITTEN")
        return _agent(row)

    async def agent(self, tenant: str, name: str) -> pb.Agent | None:
        async with self._database.transaction(tenant) as conn:
            row = await conn.fetchrow(
                "agent_get", "SELECT * FROM orchestrator.agents WHERE name = $1", name
            )
        return _agent(row) if row else None

    async def agents(self, tenant: str, after: str, limit: int) -> list[pb.Agent]:
        async with self._database.transaction(tenant) as conn:
            rows = await conn.fetch(
                "agents_list",
                "SELECT * FROM orchestrator.agents WHERE name > $1 ORDER BY name LIMIT $2",
                after,
                limit,
            )
        return [_agent(row) for row in rows]

    async def delete_agent(self, tenant: str, name: str) -> bool:
        async with self._database.transaction(tenant) as conn:
            tag = await conn.execute(
                "agent_delete", "DELETE FROM orchestrator.agents WHERE name = $1", name
            )
        return tag == "DELETE 1"

    # ---- runs ----

    async def start_run(self, run: NewRun, lease: tuple[str, float]) -> tuple[pb.Run, bool]:
        """Writes a new run and its log; with False, the earlier run that has the same request id.

        Args:
          lease: of its log, from `EventLog.lease`.

        Raises:
          AlreadyExists: REQUEST_ID_REUSED, when the request id came with another request.
        """
        identity = run.identity
        for _ in range(2):
            rows = await self._database.call(
                "run_start",
                "orchestrator.start_run",
                run.run_id,
                run.agent.name,
                run.agent.version,
                run.agent.spec.SerializeToString(),
                run.conversation_id,
                run.new_conversation,
                run.input.request_id or None,
                run.request_digest,
                run.input.SerializeToString(),
                pb.RUN_STATE_RUNNING,
                run.max_duration,
                *lease,
                tenant=identity.tenant,
                user=identity.user,
            )
            if rows:
                return _run(rows[0]), True
            earlier = await self._earlier(run)
            if earlier is not None:
                return earlier, False
        raise errors.Aborted("the request id is being used elsewhere", reason="REQUEST_ID_BUSY")

    async def _earlier(self, run: NewRun) -> pb.Run | None:
        """The run of the last 24 hours that has this request id; an older one loses it."""
        identity, request_id = run.identity, run.input.request_id
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            earlier = await conn.fetchrow(
                "run_by_request",
                "SELECT *, create_time < now() - $2::interval AS expired FROM orchestrator.runs"
                " WHERE request_id = $1",
                request_id,
                _REQUEST_ID_LIFE,
            )
            if earlier and not earlier["expired"]:
                if earlier["request_digest"] != run.request_digest:
                    raise errors.AlreadyExists(
                        "this request id was used with another request: take a new one",
                        reason="REQUEST_ID_REUSED",
                        metadata={"run_id": str(earlier["run_id"])},
                    )
                return _run(earlier)
            await conn.execute(
                "run_forget_request",
                "UPDATE orchestrator.runs SET request_id = NULL WHERE request_id = $1",
                request_id,
            )
        return None

    async def run(self, identity: Identity, run_id: uuid.UUID) -> pb.Run:
        """One run of the user.

        Raises:
          NotFound: RUN_NOT_FOUND, also for another user's.
        """
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            row = await conn.fetchrow("run_get", _SELECT_RUN + " WHERE r.run_id = $1", run_id)
        if row is None:
            raise run_not_found(run_id)
        return _run(row)

    async def runs(
        self,
        identity: Identity,
        *,
        conversation_id: uuid.UUID | None,
        agent: str,
        states: Sequence[int],
        page_token: str,
        limit: int,
    ) -> tuple[list[pb.Run], str]:
        """A page of the user's runs, newest first, and the token of the next page."""
        before_time, before_id = _parse_token(page_token)
        conditions = ["(r.create_time, r.run_id) < ($1, $2)"]
        values: list[object] = [before_time, before_id]
        if conversation_id is not None:
            values.append(conversation_id)
            conditions.append(f"r.conversation_id = ${len(values)}")
        if agent:
            values.append(agent)
            conditions.append(f"r.agent = ${len(values)}")
        if states:
            values.append(list(states))
            conditions.append(f"r.state = ANY(${len(values)}::smallint[])")
        values.append(limit + 1)
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            rows = await conn.fetch(
                "runs_list",
                _SELECT_RUN + f" WHERE {' AND '.join(conditions)}"
                f" ORDER BY r.create_time DESC, r.run_id DESC LIMIT ${len(values)}",
                *values,
            )
        token = ""
        if len(rows) > limit:
            rows = rows[:limit]
            token = _token(rows[-1]["create_time"], rows[-1]["run_id"])
        return [_run(row) for row in rows], token

    async def request_cancel(self, identity: Identity, run_id: uuid.UUID) -> pb.Run:
        """Marks a run to be cancelled by whoever owns it.

        Raises:
          NotFound: RUN_NOT_FOUND.
        """
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            await conn.execute(
                "run_cancel",
                "UPDATE orchestrator.runs SET cancel_requested = true"
                " WHERE run_id = $1 AND finish_time IS NULL AND NOT cancel_requested",
                run_id,
            )
            row = await conn.fetchrow("run_get", _SELECT_RUN + " WHERE r.run_id = $1", run_id)
        if row is None:
            raise run_not_found(run_id)
        return _run(row)

    async def cancel_requested(self, run_ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        """Those of the given runs that somebody asked to cancel."""
        async with self._database.transaction(ALL_TENANTS, timeout=3.0) as conn:
            rows = await conn.fetch(
                "runs_cancelled",
                "SELECT run_id FROM orchestrator.runs WHERE run_id = ANY($1) AND cancel_requested",
                run_ids,
            )
        return [row["run_id"] for row in rows]

    async def take_over(self, run_id: uuid.UUID) -> StoredRun | None:
        """The run as its new owner needs it; counts the take-over."""
        async with self._database.transaction(ALL_TENANTS) as conn:
            row = await conn.fetchrow(
                "run_take_over",
                "UPDATE orchestrator.runs SET takeovers = takeovers + 1 WHERE run_id = $1"
                " RETURNING *, extract(epoch FROM clock_timestamp() - create_time)::float8 AS age,"
                " extract(epoch FROM deadline_time - clock_timestamp())::float8 AS remaining",
                run_id,
            )
        if row is None:
            return None
        return StoredRun(
            run_id=run_id,
            identity=Identity(row["tenant"], row["user_id"]),
            agent=row["agent"],
            agent_version=row["agent_version"],
            spec=pb.AgentSpec.FromString(row["spec"]),
            conversation_id=row["conversation_id"],
            new_conversation=row["new_conversation"],
            input=pb.RunInput.FromString(row["input"]),
            cancel_requested=row["cancel_requested"],
            age=row["age"],
            remaining=row["remaining"],
        )

    async def set_state(self, identity: Identity, run_id: uuid.UUID, state: "pb.RunState") -> None:
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            await conn.execute(
                "run_set_state",
                "UPDATE orchestrator.runs SET state = $2 WHERE run_id = $1 AND finish_time IS NULL",
                run_id,
                state,
            )

    def ending(self, identity: Identity, outcome: pb.RunFinished) -> Also:
        """How a run ended, to be written with its terminal event."""
        return Also(
            function="orchestrator.finish_run",
            args=(outcome.state, outcome.SerializeToString()),
            user=identity.user,
        )

    def removal(self, identity: Identity) -> Also:
        """Takes back a run that was never acknowledged."""
        return Also(function="orchestrator.remove_run", args=(), user=identity.user)


# A run at work knows its last durable position only in its log.
_SELECT_RUN = (
    "SELECT r.*, coalesce(nullif(r.last_sequence, 0), l.durable_sequence, 0) AS position"
    " FROM orchestrator.runs r LEFT JOIN eventlog.logs l ON l.log_id = r.run_id"
)


def run_not_found(run_id: object) -> errors.NotFound:
    return errors.NotFound(
        "there is no such run", reason="RUN_NOT_FOUND", metadata={"run_id": str(run_id)}
    )


def _agent(row: Record) -> pb.Agent:
    agent = pb.Agent(name=row["name"], version=row["version"])
    agent.spec.ParseFromString(row["spec"])
    agent.create_time.FromDatetime(row["create_time"])
    agent.update_time.FromDatetime(row["update_time"])
    return agent


def _run(row: Record) -> pb.Run:
    given = pb.RunInput.FromString(row["input"])
    run = pb.Run(
        run_id=str(row["run_id"]),
        agent=row["agent"],
        conversation_id=str(row["conversation_id"]),
        state=row["state"],
        last_sequence=row.get("position") or row["last_sequence"],
        labels=given.labels,
        takeovers=row["takeovers"],
    )
    run.create_time.FromDatetime(row["create_time"])
    if row["finish_time"] is not None:
        run.finish_time.FromDatetime(row["finish_time"])
    if row["outcome"] is not None:
        outcome = pb.RunFinished.FromString(row["outcome"])
        run.usage.CopyFrom(outcome.usage)
        if outcome.HasField("error"):
            run.error.CopyFrom(outcome.error)
    return run


_NEWEST = (
    datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC),
    uuid.UUID("ffffffff-ffff-ffff-ffff-ffffffffffff"),
)


def _token(create_time: datetime.datetime, run_id: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(f"{create_time.isoformat()}|{run_id}".encode()).decode()


def _parse_token(token: str) -> tuple[datetime.datetime, uuid.UUID]:
    if not token:
        return _NEWEST
    try:
        time, _, run_id = base64.urlsafe_b64decode(token.encode()).decode().partition("|")
        return datetime.datetime.fromisoformat(time), uuid.UUID(run_id)
    except ValueError:
        raise errors.InvalidArgument(
            "the page token is not one of this list: begin without one",
            reason="PAGE_TOKEN_INVALID",
        ) from None
