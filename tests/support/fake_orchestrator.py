"""A small stateful stand-in for the orchestrator, over real gRPC: runs that follow a script.

    async with fake_orchestrator() as fake:
        fake.script = [started(), text(1, "hello"), finished("hello")]
        async with PeregrineClient(fake.target) as client: ...

A script is a list of event payloads; a `Gate` in it holds the run there until the test opens it, a
float waits (for looking at the screen by hand). `fake.cuts` says after how many events the next
streams are cut (`fake.silent`: without a reason); `run.truncate` replaces the end of a log as a
take-over does.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from peregrine.api.common.v1 import common_pb2
from peregrine.api.identity.v1 import identity_pb2, identity_pb2_grpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as pb_grpc
from peregrine.kit.bearer import credential_in
from peregrine.kit.context import ContextInterceptor, Identity, OpenDoor, identity
from peregrine.kit.errors import (
    ErrorInterceptor,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unavailable,
)

CONVERSATION = "11111111-1111-4111-8111-111111111111"
Gate = asyncio.Event
Script = Sequence["pb.RunEvent | Gate | float"]


# ---- Payloads ----


def started(agent: str = "assistant") -> pb.RunEvent:
    """The fake fills in the run id."""
    run = pb.RunStarted(agent=agent, agent_version=1, conversation_id=CONVERSATION)
    return pb.RunEvent(run_started=run)


def step(number: int, *, simulated: bool = True) -> pb.RunEvent:
    model = "claude-sonnet-5-5"
    return pb.RunEvent(step_started=pb.StepStarted(step=number, model=model, simulated=simulated))


def text(number: int, words: str) -> pb.RunEvent:
    return pb.RunEvent(text_delta=pb.TextDelta(step=number, text=words))


def tool_started(call_id: str, tool: str, arguments: str = "{}", *, number: int = 1) -> pb.RunEvent:
    call = pb.ToolCallStarted(
        step=number,
        call_id=call_id,
        tool=tool,
        arguments=common_pb2.Json(utf8=arguments.encode()),
        effect=common_pb2.EFFECT_PURE,
        eager=True,
    )
    return pb.RunEvent(tool_call_started=call)


def tool_finished(
    call_id: str,
    tool: str,
    result: str = "done",
    *,
    number: int = 1,
    ms: float = 1.0,
    failed: str = "",
    reused: bool = False,
) -> pb.RunEvent:
    call = pb.ToolCallFinished(
        step=number,
        call_id=call_id,
        tool=tool,
        status=pb.TOOL_CALL_STATUS_FAILED if failed else pb.TOOL_CALL_STATUS_SUCCEEDED,
        content=[common_pb2.ContentBlock(text=result)],
        reused=reused,
    )
    call.execution_time.FromNanoseconds(int(ms * 1e6))
    if failed:
        call.error.reason, call.error.message = "TOOL_FAILED", failed
    return pb.RunEvent(tool_call_finished=call)


def taken_over() -> pb.RunEvent:
    reason = pb.TAKEOVER_REASON_LEASE_EXPIRED
    return pb.RunEvent(run_taken_over=pb.RunTakenOver(reason=reason))


def restarted(discard_from: int, number: int = 1) -> pb.RunEvent:
    again = pb.GenerationRestarted(step=number, discard_from=discard_from, reason="OWNER_LOST")
    return pb.RunEvent(generation_restarted=again)


def truncated(to: int) -> pb.RunEvent:
    return pb.RunEvent(log_truncated=pb.LogTruncated(to=to))


def finished(
    words: str,
    *,
    state: pb.RunState = pb.RUN_STATE_SUCCEEDED,
    waterfall: pb.Waterfall | None = None,
    steps: int = 1,
    error: common_pb2.Error | None = None,
) -> pb.RunEvent:
    end = pb.RunFinished(state=state, text=words, steps=steps, waterfall=waterfall, error=error)
    end.usage.input_tokens, end.usage.output_tokens = 1234, 56
    return pb.RunEvent(run_finished=end)


def span(
    kind: pb.SpanKind, name: str, start: float, duration: float, critical: float, number: int = 1
) -> pb.WaterfallSpan:
    return pb.WaterfallSpan(
        kind=kind,
        name=name,
        step=number,
        start_ms=start,
        duration_ms=duration,
        critical_ms=critical,
    )


# ---- The service ----


@dataclass
class FakeRun:
    """One run: its log so far, and what it still has to say."""

    run: pb.Run
    input: pb.RunInput
    script: list[Any]
    events: list[pb.RunEvent] = field(default_factory=list)
    epoch: int = 1
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def append(self, payload: pb.RunEvent) -> None:
        event = pb.RunEvent()
        event.CopyFrom(payload)
        event.sequence, event.epoch = len(self.events) + 1, self.epoch
        event.create_time.GetCurrentTime()
        if event.HasField("run_started"):
            event.run_started.run_id = self.run.run_id
        if event.HasField("run_finished"):
            self.run.state = event.run_finished.state
            self.run.finish_time.GetCurrentTime()
        async with self.changed:
            self.events.append(event)
            self.run.last_sequence = event.sequence
            self.changed.notify_all()

    async def truncate(self, to: int, *payloads: pb.RunEvent) -> None:
        """A new owner goes on after `to`: what came after it was lost."""
        async with self.changed:
            del self.events[to:]
            self.epoch += 1
        for payload in (truncated(to), *payloads):
            await self.append(payload)

    async def play(self) -> None:
        for item in self.script:
            if isinstance(item, pb.RunEvent):
                await self.append(item)
            else:
                waiting = item.wait() if isinstance(item, Gate) else asyncio.sleep(item)
                if await self._or_cancelled(waiting):
                    await self.append(finished("", state=pb.RUN_STATE_CANCELLED))
                    return

    async def _or_cancelled(self, waiting: Any) -> bool:
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self.cancelled.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self.cancelled.is_set()

    async def read(self, after: int, after_epoch: int | None) -> AsyncIterator[list[pb.RunEvent]]:
        epoch = after_epoch
        while True:
            async with self.changed:
                while not self._news(after, epoch):
                    if self.run.state >= pb.RUN_STATE_SUCCEEDED:
                        return
                    await self.changed.wait()
                after = self._from(after, epoch)
                batch = self.events[after:]
            yield batch
            after, epoch = batch[-1].sequence, batch[-1].epoch
            if batch[-1].HasField("run_finished"):
                return

    def _from(self, after: int, epoch: int | None) -> int:
        for event in self.events[:after]:
            if epoch is not None and event.epoch > epoch:
                return event.sequence - 1
        return after

    def _news(self, after: int, epoch: int | None) -> bool:
        return len(self.events) > self._from(after, epoch)


class FakeIdentity(identity_pb2_grpc.IdentityServiceServicer):
    """Knows the credentials that a test puts into `keys`, with their users."""

    def __init__(self) -> None:
        self.keys: dict[str, Identity] = {}
        self.exchanges = 0
        self.away = False

    async def ExchangeCredential(
        self, request: identity_pb2.ExchangeCredentialRequest, context: Any
    ) -> identity_pb2.ExchangeCredentialResponse:
        self.exchanges += 1
        if self.away:
            raise Unavailable("not now", reason="POSTGRES_UNAVAILABLE", retry_after=1.0)
        who = self.keys.get(_credential(context))
        if who is None:
            raise Unauthenticated("the credentials are not valid", reason="CREDENTIALS_INVALID")
        response = identity_pb2.ExchangeCredentialResponse(
            identity_token="signed", for_tenant=who.tenant, for_user=who.user, scopes=["run"]
        )
        response.expire_time.FromSeconds(int(time.time()) + 300)
        return response


def _credential(context: Any) -> str:
    return credential_in(dict(context.invocation_metadata()).get("authorization")) or ""


class FakeOrchestrator(pb_grpc.OrchestratorServiceServicer, pb_grpc.AgentServiceServicer):
    """See the module. `calls` are the names of the methods that were called, in order."""

    def __init__(self) -> None:
        self.target = ""
        self.script: Script = [started(), step(1), text(1, "hello"), finished("hello")]
        self.cuts: list[int] = []
        self.silent = False
        self.runs: dict[str, FakeRun] = {}
        self.agents: dict[str, pb.Agent] = {}
        self.calls: list[str] = []
        self.users: list[str] = []
        self.refuse: Exception | None = None
        self.identities = FakeIdentity()
        self._requests: dict[str, str] = {}
        self._playing: set[asyncio.Task[None]] = set()

    @property
    def run(self) -> FakeRun:
        """The newest run."""
        return list(self.runs.values())[-1]

    async def close(self) -> None:
        for task in self._playing:
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)

    def _start(self, request: pb.RunInput) -> FakeRun:
        if not request.message:
            raise InvalidArgument("the message is empty", reason="MESSAGE_EMPTY")
        if self.agents and request.agent not in self.agents:
            raise NotFound(f"there is no agent {request.agent!r}", reason="AGENT_NOT_FOUND")
        if known := self._requests.get(request.request_id):
            return self.runs[known]
        run = pb.Run(
            run_id=str(uuid.uuid4()),
            agent=request.agent,
            conversation_id=request.conversation_id or CONVERSATION,
            state=pb.RUN_STATE_RUNNING,
        )
        run.create_time.GetCurrentTime()
        fake = FakeRun(run, request, list(self.script))
        self.runs[run.run_id] = fake
        self._requests[request.request_id] = run.run_id
        playing = asyncio.create_task(fake.play())
        self._playing.add(playing)
        return fake

    def _note(self, name: str) -> None:
        self.calls.append(name)
        self.users.append(identity().user)
        if self.refuse is not None:
            raise self.refuse

    def _gone(self) -> Unavailable:
        # As a refused connection looks to the client, or as a service that says why.
        return Unavailable("going away", reason="UNAVAILABLE" if self.silent else "DRAINING")

    def _known(self, run_id: str) -> FakeRun:
        if run_id not in self.runs:
            raise NotFound(f"there is no run {run_id}", reason="RUN_NOT_FOUND")
        return self.runs[run_id]

    async def _stream(
        self, run: FakeRun, after: int, after_epoch: int | None
    ) -> AsyncIterator[list[pb.RunEvent]]:
        left = self.cuts.pop(0) if self.cuts else None
        if left == 0:
            raise self._gone()
        async for batch in run.read(after, after_epoch):
            yield batch[:left]
            if left is not None:
                left -= len(batch[:left])
                if left == 0:
                    raise self._gone()

    async def Chat(self, request: pb.ChatRequest, context: Any) -> AsyncIterator[pb.ChatResponse]:
        self._note("Chat")
        async for batch in self._stream(self._start(request.input), 0, None):
            yield pb.ChatResponse(events=batch)

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchRunResponse]:
        self._note("WatchRun")
        epoch = request.after_epoch if request.HasField("after_epoch") else None
        run = self._known(request.run_id)
        async for batch in self._stream(run, request.after_sequence, epoch):
            yield pb.WatchRunResponse(events=batch)

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        self._note("StartRun")
        return pb.StartRunResponse(run=self._start(request.input).run)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        self._note("GetRun")
        return pb.GetRunResponse(run=self._known(request.run_id).run)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        self._note("ListRuns")
        runs = [
            each.run
            for each in reversed(self.runs.values())
            if request.agent in ("", each.run.agent)
            and (not request.states or each.run.state in request.states)
        ]
        page, token = _page(runs, request)
        return pb.ListRunsResponse(runs=page, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        self._note("CancelRun")
        run = self._known(request.run_id)
        run.cancelled.set()
        return pb.CancelRunResponse(state=run.run.state)

    async def ApplyAgent(
        self, request: pb.ApplyAgentRequest, context: Any
    ) -> pb.ApplyAgentResponse:
        self._note("ApplyAgent")
        now = Timestamp()
        now.GetCurrentTime()
        known = self.agents.get(request.agent.name)
        if known is not None and known.spec == request.agent.spec:
            return pb.ApplyAgentResponse(agent=known)
        agent = pb.Agent(
            name=request.agent.name,
            spec=request.agent.spec,
            version=known.version + 1 if known else 1,
            create_time=known.create_time if known else now,
            update_time=now,
        )
        self.agents[agent.name] = agent
        return pb.ApplyAgentResponse(agent=agent)

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        self._note("GetAgent")
        if request.name not in self.agents:
            raise NotFound(f"there is no agent {request.name!r}", reason="AGENT_NOT_FOUND")
        return pb.GetAgentResponse(agent=self.agents[request.name])

    async def ListAgents(
        self, request: pb.ListAgentsRequest, context: Any
    ) -> pb.ListAgentsResponse:
        self._note("ListAgents")
        page, token = _page([self.agents[name] for name in sorted(self.agents)], request)
        return pb.ListAgentsResponse(agents=page, next_page_token=token)

    async def DeleteAgent(
        self, request: pb.DeleteAgentRequest, context: Any
    ) -> pb.DeleteAgentResponse:
        self._note("DeleteAgent")
        deleted = self.agents.pop(request.name, None) is not None
        return pb.DeleteAgentResponse(deleted=deleted)


def _page(items: Sequence[Any], request: Any) -> tuple[list[Any], str]:
    begin = int(request.page_token or 0)
    end = begin + (request.page_size or 50)
    return list(items[begin:end]), str(end) if end < len(items) else ""


@asynccontextmanager
async def fake_orchestrator(address: str = "127.0.0.1:0") -> AsyncIterator[FakeOrchestrator]:
    fake = FakeOrchestrator()
    adders = (
        pb_grpc.add_OrchestratorServiceServicer_to_server,
        pb_grpc.add_AgentServiceServicer_to_server,
    )
    servicers: list[tuple[Any, Any]] = [(add, fake) for add in adders]
    add_identities = identity_pb2_grpc.add_IdentityServiceServicer_to_server
    servicers.append((add_identities, fake.identities))
    async with serving(servicers, address) as target:
        fake.target = target
        try:
            yield fake
        finally:
            await fake.close()


@asynccontextmanager
async def serving(
    servicers: Iterable[tuple[Any, Any]], address: str = "127.0.0.1:0"
) -> AsyncIterator[str]:
    """Serves servicers with the kit's errors and context; yields where."""
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), ContextInterceptor(door=OpenDoor())],
        options=[("grpc.so_reuseport", 0)],
    )
    for add, servicer in servicers:
        add(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(0)
