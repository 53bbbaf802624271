"""Runs and agents: the client of the orchestrator."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, ClassVar

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from peregrine.client._connection import ServiceClient, Tls, new_request_id, unary_methods
from peregrine.client._reading import Cursor, Patience, read
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError

# A run lasts an hour at most; a stream of its events a little longer.
_STREAM_SECONDS = 3700.0


class PeregrineClient(ServiceClient):
    """Starts runs, reads them, and keeps agents. See the package for an example.

    Args:
      target: host:port, dns:///host:port or unix:/path of an orchestrator.
      connections: channels of the pool, each with a connection of its own.
      timeout: seconds that a call other than a stream of events may take.
      identity: whom the calls are for, where the service is told so by its caller.
      api_key: an API key, or a JWT of an issuer that the installation trusts.
      tls: whether the connection is encrypted, and by whose authority. By default it is not, and
        a key is then sent to this machine only (FailedPrecondition: TLS_NEEDED).
      patience: how hard `chat` and `watch_run` try to read on after a lost connection.
      on_lost: told why, each time they are about to try again.
    """

    name: ClassVar[str] = "orchestrator"
    local: ClassVar[str] = "127.0.0.1:50051"
    takes_keys: ClassVar[bool] = True

    def __init__(
        self,
        target: str | None = None,
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
        patience: Patience | None = None,
        on_lost: Callable[[PeregrineError], None] | None = None,
    ) -> None:
        super().__init__(
            target,
            connections=connections,
            timeout=timeout,
            identity=identity,
            api_key=api_key,
            tls=tls,
        )
        self._patience = patience or Patience()
        self._on_lost = on_lost

    def _bind(self, pool: ChannelPool) -> None:
        self._runs = pb_grpc.OrchestratorServiceStub(pool)
        self._agents = pb_grpc.AgentServiceStub(pool)

    def _idempotent(self) -> frozenset[str]:
        # Every mutation here is either idempotent by itself or carries a request id.
        services = pb.DESCRIPTOR.services_by_name
        return unary_methods(services["OrchestratorService"], services["AgentService"])

    # ---- Runs ----

    async def chat(
        self,
        agent: str,
        message: str,
        conversation_id: str | None = None,
        request_id: str | None = None,
        *,
        timeout: float | None = None,
        disconnect_policy: pb.DisconnectPolicy = pb.DISCONNECT_POLICY_UNSPECIFIED,
        optimizations: pb.Optimizations | None = None,
        allow_unremembered: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[pb.RunEvent, None]:
        """Starts a run and yields its events to the terminal one.

        When the connection is lost before the first event, the same request (by its id) is made
        again; after it, the run is read on from the last position. Events are passed on as they
        are: `generation_restarted` and `log_truncated` say what no longer counts.

        Args:
          conversation_id: a UUID; None begins a new conversation.
          request_id: names this request for 24 h, at most 128 characters; a fresh one by default.
          timeout: seconds; shortens the agent's own limit for a run.

        Raises:
          PeregrineError: with the reasons of StartRun and WatchRun. A run that fails does not
            raise: its terminal event says so.
        """
        batches = self.chat_in_batches(
            agent,
            message,
            conversation_id,
            request_id,
            timeout=timeout,
            disconnect_policy=disconnect_policy,
            optimizations=optimizations,
            allow_unremembered=allow_unremembered,
            labels=labels,
        )
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    async def chat_in_batches(
        self,
        agent: str,
        message: str,
        conversation_id: str | None = None,
        request_id: str | None = None,
        *,
        timeout: float | None = None,
        disconnect_policy: pb.DisconnectPolicy = pb.DISCONNECT_POLICY_UNSPECIFIED,
        optimizations: pb.Optimizations | None = None,
        allow_unremembered: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[list[pb.RunEvent], None]:
        """As `chat`, but yields what arrives together in one list, for who passes it on so."""
        request = _input(
            agent,
            message,
            conversation_id=conversation_id,
            request_id=request_id,
            timeout=timeout,
            disconnect_policy=disconnect_policy,
            optimizations=optimizations,
            allow_unremembered=allow_unremembered,
            labels=labels,
        )
        run_id = ""

        def open_stream(cursor: Cursor) -> Any:
            if run_id:
                return self._watch(run_id, cursor)
            with self._as_identity():
                return self._runs.Chat(pb.ChatRequest(input=request), timeout=_STREAM_SECONDS)

        events = self._read(open_stream, Cursor())
        try:
            async for batch in events:
                if batch[0].HasField("run_started"):
                    run_id = batch[0].run_started.run_id
                yield batch
        finally:
            await events.aclose()

    async def watch_run(
        self, run_id: str, after_sequence: int = 0, after_epoch: int | None = None
    ) -> AsyncGenerator[pb.RunEvent, None]:
        """Yields the events of a run after a position, to the terminal one; reads on by itself.

        Args:
          after_sequence: the position of the last event seen; 0 for all.
          after_epoch: the epoch of that event, so that a truncation since then is told.

        Raises:
          NotFound: RUN_NOT_FOUND. OutOfRange: EVENTS_COMPACTED.
        """
        batches = self.watch_run_in_batches(run_id, after_sequence, after_epoch)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for event in batch:
                    yield event

    def watch_run_in_batches(
        self, run_id: str, after_sequence: int = 0, after_epoch: int | None = None
    ) -> AsyncGenerator[list[pb.RunEvent], None]:
        """As `watch_run`, but yields what arrives together in one list."""
        cursor = Cursor(after_sequence, after_epoch)
        return self._read(lambda cursor: self._watch(run_id, cursor), cursor)

    def _read(
        self, open_stream: Callable[[Cursor], Any], cursor: Cursor
    ) -> AsyncGenerator[list[pb.RunEvent], None]:
        return read(open_stream, cursor=cursor, patience=self._patience, on_lost=self._on_lost)

    def _watch(self, run_id: str, cursor: Cursor) -> Any:
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=cursor.sequence)
        if cursor.epoch is not None:
            request.after_epoch = cursor.epoch
        with self._as_identity():
            return self._runs.WatchRun(request, timeout=_STREAM_SECONDS)

    async def start_run(
        self,
        agent: str,
        message: str,
        conversation_id: str | None = None,
        request_id: str | None = None,
        *,
        timeout: float | None = None,
        optimizations: pb.Optimizations | None = None,
        allow_unremembered: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> pb.Run:
        """Starts a run and returns once it is durable. Arguments and errors as `chat`."""
        request = _input(
            agent,
            message,
            conversation_id=conversation_id,
            request_id=request_id,
            timeout=timeout,
            optimizations=optimizations,
            allow_unremembered=allow_unremembered,
            labels=labels,
        )
        response = await self._call(self._runs.StartRun, pb.StartRunRequest(input=request))
        run: pb.Run = response.run
        return run

    async def get_run(self, run_id: str) -> pb.Run:
        response = await self._call(self._runs.GetRun, pb.GetRunRequest(run_id=run_id))
        run: pb.Run = response.run
        return run

    def list_runs(
        self,
        *,
        agent: str = "",
        conversation_id: str = "",
        states: Iterable[pb.RunState] = (),
        limit: int | None = None,
    ) -> AsyncGenerator[pb.Run, None]:
        """The user's runs, newest first, page by page as they are asked for."""
        request = pb.ListRunsRequest(
            agent=agent, conversation_id=conversation_id, states=list(states)
        )
        return self._list(self._runs.ListRuns, request, "runs", limit)

    async def page_of_runs(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        agent: str = "",
        conversation_id: str = "",
        states: Iterable[pb.RunState] = (),
    ) -> pb.ListRunsResponse:
        """One page of `list_runs`, with the token of the next."""
        request = pb.ListRunsRequest(
            page_size=page_size,
            page_token=page_token,
            agent=agent,
            conversation_id=conversation_id,
            states=list(states),
        )
        response: pb.ListRunsResponse = await self._call(self._runs.ListRuns, request)
        return response

    async def cancel_run(self, run_id: str) -> pb.RunState:
        """Asks a run to end; returns its state just now. CANCELLED follows in the log."""
        response = await self._call(self._runs.CancelRun, pb.CancelRunRequest(run_id=run_id))
        state: pb.RunState = response.state
        return state

    async def approve_tool_call(
        self,
        run_id: str,
        call_id: str,
        approval: pb.Approval,
        *,
        comment: str = "",
        content: Iterable[common_pb2.ContentBlock] = (),
        request_id: str | None = None,
    ) -> pb.RunState:
        """Answers a run that waits. `content` is the result, with APPROVAL_SETTLE."""
        request = pb.ApproveToolCallRequest(
            run_id=run_id,
            call_id=call_id,
            approval=approval,
            comment=comment,
            content=list(content),
            request_id=request_id or new_request_id(),
        )
        response = await self._call(self._runs.ApproveToolCall, request)
        state: pb.RunState = response.state
        return state

    # ---- Agents ----

    async def apply_agent(
        self,
        agent: pb.Agent,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
    ) -> pb.Agent:
        """Creates or replaces an agent; the same definition again keeps its version.

        Raises:
          InvalidArgument: AGENT_INVALID, with field violations. Aborted: VERSION_STALE.
        """
        request = pb.ApplyAgentRequest(agent=agent, request_id=request_id or new_request_id())
        if expected_version is not None:
            request.expected_version = expected_version
        response = await self._call(self._agents.ApplyAgent, request)
        applied: pb.Agent = response.agent
        return applied

    async def get_agent(self, name: str) -> pb.Agent:
        response = await self._call(self._agents.GetAgent, pb.GetAgentRequest(name=name))
        agent: pb.Agent = response.agent
        return agent

    def list_agents(self, *, limit: int | None = None) -> AsyncGenerator[pb.Agent, None]:
        """Agents by name, page by page as they are asked for."""
        return self._list(self._agents.ListAgents, pb.ListAgentsRequest(), "agents", limit)

    async def page_of_agents(
        self, *, page_size: int = 0, page_token: str = ""
    ) -> pb.ListAgentsResponse:
        """One page of `list_agents`, with the token of the next."""
        request = pb.ListAgentsRequest(page_size=page_size, page_token=page_token)
        response: pb.ListAgentsResponse = await self._call(self._agents.ListAgents, request)
        return response

    async def delete_agent(self, name: str, *, request_id: str | None = None) -> bool:
        """Deletes an agent; False when there was none."""
        request = pb.DeleteAgentRequest(name=name, request_id=request_id or new_request_id())
        response = await self._call(self._agents.DeleteAgent, request)
        return bool(response.deleted)


def _input(
    agent: str,
    message: str,
    *,
    conversation_id: str | None,
    request_id: str | None,
    timeout: float | None,
    disconnect_policy: pb.DisconnectPolicy = pb.DISCONNECT_POLICY_UNSPECIFIED,
    optimizations: pb.Optimizations | None,
    allow_unremembered: bool,
    labels: Mapping[str, str] | None,
) -> pb.RunInput:
    request = pb.RunInput(
        agent=agent,
        message=message,
        conversation_id=conversation_id or "",
        request_id=request_id or new_request_id(),
        disconnect_policy=disconnect_policy,
        optimizations=optimizations,
        allow_unremembered=allow_unremembered,
        labels=labels,
    )
    if timeout is not None:
        request.timeout.FromNanoseconds(int(timeout * 1e9))
    return request
