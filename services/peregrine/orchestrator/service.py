"""The servicers: check what was asked, translate, call the domain, translate back."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import grpc.aio

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.kit import context, errors
from peregrine.kit.eventlog import EventLog, LogNotFound
from peregrine.orchestrator import plan, store
from peregrine.orchestrator.agents import Agents
from peregrine.orchestrator.runs import Runs
from peregrine.orchestrator.store import Store

Context = grpc.aio.ServicerContext[object, object]

_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_MAX_LABELS = 16
_MAX_LABEL = 128


class OrchestratorServicer(rpc.OrchestratorServiceServicer):
    def __init__(self, *, runs: Runs, run_store: Store, event_log: EventLog) -> None:
        self._runs = runs
        self._store = run_store
        self._log = event_log
        self._streams: set[asyncio.Task[object]] = set()
        self._closing = False

    async def Chat(
        self, request: pb.ChatRequest, context_: Context
    ) -> AsyncIterator[pb.ChatResponse]:
        accepted = time.monotonic()
        given = _checked(request.input)
        run = await self._runs.start(given, accepted=accepted)
        run_id = uuid.UUID(run.run_id)
        ended = False
        try:
            async for events in self._events(run_id, 0, None):
                ended = events[-1].HasField("run_finished")
                yield pb.ChatResponse(events=events)
        finally:
            cancel = given.disconnect_policy == pb.DISCONNECT_POLICY_CANCEL
            if cancel and not ended and not self._closing:
                # The connection is lost: its deadline is no measure for ending the run.
                with context.bind(detach=True), contextlib.suppress(errors.PeregrineError):
                    await asyncio.shield(self._runs.cancel(run_id))

    async def StartRun(self, request: pb.StartRunRequest, _: Context) -> pb.StartRunResponse:
        accepted = time.monotonic()
        run = await self._runs.start(_checked(request.input), accepted=accepted)
        return pb.StartRunResponse(run=run)

    async def WatchRun(
        self, request: pb.WatchRunRequest, _: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        run_id = _uuid("run_id", request.run_id)
        if request.after_sequence < 0:
            raise _invalid("after_sequence", "0 or a position")
        # Whether it is the user's; the log itself is only the tenant's.
        await self._store.run(context.identity(), run_id)
        epoch = request.after_epoch if request.HasField("after_epoch") else None
        async for events in self._events(run_id, request.after_sequence, epoch):
            yield pb.WatchRunResponse(events=events)

    async def _events(
        self, run_id: uuid.UUID, after: int, epoch: int | None
    ) -> AsyncIterator[list[pb.RunEvent]]:
        tenant = context.identity().tenant
        with self._stream():
            try:
                async for entries in self._log.read(
                    tenant=tenant, log_id=run_id, after=after, after_epoch=epoch
                ):
                    yield [pb.RunEvent.FromString(entry.payload) for entry in entries]
            except LogNotFound:
                raise store.run_not_found(run_id) from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not self._closing or task is None:
                    raise
                task.uncancel()
                raise errors.Unavailable(
                    "this orchestrator is going away: read on elsewhere",
                    reason="DRAINING",
                    retry_after=0.0,
                ) from None

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Knows the tasks that stream, so that a drain can send their readers elsewhere."""
        task = asyncio.current_task()
        if task is None:
            yield
            return
        self._streams.add(task)
        try:
            yield
        finally:
            self._streams.discard(task)

    def close_streams(self) -> None:
        """Ends every stream with UNAVAILABLE / DRAINING; readers go on elsewhere by position."""
        self._closing = True
        for task in list(self._streams):
            task.cancel()

    async def GetRun(self, request: pb.GetRunRequest, _: Context) -> pb.GetRunResponse:
        run_id = _uuid("run_id", request.run_id)
        return pb.GetRunResponse(run=await self._store.run(context.identity(), run_id))

    async def ListRuns(self, request: pb.ListRunsRequest, _: Context) -> pb.ListRunsResponse:
        conversation = request.conversation_id
        runs, token = await self._store.runs(
            context.identity(),
            conversation_id=_uuid("conversation_id", conversation) if conversation else None,
            agent=request.agent,
            states=request.states,
            page_token=request.page_token,
            limit=_page_size(request.page_size),
        )
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, _: Context) -> pb.CancelRunResponse:
        run = await self._runs.cancel(_uuid("run_id", request.run_id))
        return pb.CancelRunResponse(state=run.state)


class AgentServicer(rpc.AgentServiceServicer):
    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def ApplyAgent(self, request: pb.ApplyAgentRequest, _: Context) -> pb.ApplyAgentResponse:
        expected = request.expected_version if request.HasField("expected_version") else None
        agent = await self._agents.apply(context.identity().tenant, request.agent, expected)
        return pb.ApplyAgentResponse(agent=agent)

    async def GetAgent(self, request: pb.GetAgentRequest, _: Context) -> pb.GetAgentResponse:
        agent = await self._agents.get(context.identity().tenant, request.name)
        return pb.GetAgentResponse(agent=agent)

    async def ListAgents(self, request: pb.ListAgentsRequest, _: Context) -> pb.ListAgentsResponse:
        if request.page_token and not plan.AGENT_NAME.fullmatch(request.page_token):
            raise errors.InvalidArgument(
                "the page token is not one of this list: begin without one",
                reason="PAGE_TOKEN_INVALID",
            )
        limit = _page_size(request.page_size)
        tenant = context.identity().tenant
        agents = await self._agents.list(tenant, request.page_token, limit + 1)
        token = agents[limit - 1].name if len(agents) > limit else ""
        return pb.ListAgentsResponse(agents=agents[:limit], next_page_token=token)

    async def DeleteAgent(
        self, request: pb.DeleteAgentRequest, _: Context
    ) -> pb.DeleteAgentResponse:
        deleted = await self._agents.delete(context.identity().tenant, request.name)
        return pb.DeleteAgentResponse(deleted=deleted)


def _checked(given: pb.RunInput) -> pb.RunInput:
    """Refuses what can never be run."""
    if not given.message.strip():
        raise errors.InvalidArgument(
            "the message is empty: say something",
            reason="MESSAGE_EMPTY",
            violations=[("input.message", "at least one character that is not a space")],
        )
    size = len(given.message.encode())
    if size > plan.MAX_MESSAGE_BYTES:
        raise errors.InvalidArgument(
            f"the message has {size} bytes, at most {plan.MAX_MESSAGE_BYTES} are taken",
            reason="MESSAGE_TOO_LONG",
            violations=[("input.message", f"at most {plan.MAX_MESSAGE_BYTES} bytes")],
        )
    if not given.agent:
        raise _invalid("input.agent", "name an agent")
    if given.conversation_id:
        _uuid("input.conversation_id", given.conversation_id)
    if len(given.request_id) > 128 or "\0" in given.request_id:
        raise _invalid("input.request_id", "at most 128 characters, none of them NUL")
    if given.HasField("timeout") and given.timeout.ToNanoseconds() <= 0:
        raise _invalid("input.timeout", "more than 0 s")
    if len(given.labels) > _MAX_LABELS or any(
        len(key) > _MAX_LABEL or len(value) > _MAX_LABEL for key, value in given.labels.items()
    ):
        raise _invalid("input.labels", "at most 16, of at most 128 characters")
    return given


def _uuid(field: str, text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise _invalid(field, "a UUID") from None


def _page_size(asked: int) -> int:
    if not 0 <= asked <= _MAX_PAGE:
        raise _invalid("page_size", f"1-{_MAX_PAGE}, or 0 for {_DEFAULT_PAGE}")
    return asked or _DEFAULT_PAGE


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{field}: {description}", reason="REQUEST_INVALID", violations=[(field, description)]
    )
