"""The whole of Peregrine for a test: every service over real gRPC on free ports.

`in_process` runs them on the test's own loop, with the simulator beside them. `processes` runs
orchestrators (which a test may kill or freeze) as processes of their own, around the same
neighbours. Both take a migrated database and a Redis URL.

With `identity=True`, or `PEREGRINE_TEST_IDENTITY=on`, everything runs with identity on:
callers show an API key of the user that they are without it, services what they signed.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.kit import context
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity
from peregrine.kit.postgres import Database
from peregrine.kit.serve import Server
from peregrine.kit.settings import load
from peregrine.llm_gateway import main as llm_gateway
from peregrine.local.processes import Child, Children
from peregrine.memory import main as memory
from peregrine.orchestrator import credentials, keys
from peregrine.orchestrator import main as orchestrator
from peregrine.simulator.main import Simulator, SimulatorSettings
from peregrine.tools import main as tools
from tests.support import identity as identities
from tests.support.eventually import eventually
from tests.support.ports import free_port

SERVICES = Path(__file__).parents[2] / "services"
REPOSITORY = Path(__file__).parents[2]
AGENT = "assistant"
TOOLS_MODULE = "tests.support.tools_module"


@dataclass(slots=True, kw_only=True)
class Orchestrator:
    """One orchestrator and a client of it; `child` when it is a process of its own."""

    address: str
    runs: rpc.OrchestratorServiceStub
    agents: rpc.AgentServiceStub
    server: Server | None = None
    child: Child | None = None


@dataclass(slots=True, kw_only=True)
class Stack:
    simulator: Simulator
    environ: dict[str, str]
    orchestrators: list[Orchestrator] = field(default_factory=list)
    credential: str = ""
    """The API key that its clients show; empty where identity is off."""

    @property
    def headers(self) -> dict[str, str]:
        """What its clients show an edge."""
        return {"Authorization": f"Bearer {self.credential}"} if self.credential else {}

    def on_behalf_of(self, who: Identity = context.LOCAL) -> identities.Metadata:
        """What calls between services carry."""
        if self.credential:
            return identities.signed(who)
        return ((context.TENANT_KEY, who.tenant), (context.USER_KEY, who.user))

    @property
    def first(self) -> Orchestrator:
        return self.orchestrators[0]

    async def chat(
        self, message: str, *, at: int = 0, timeout: float = 60.0, **fields: object
    ) -> list[pb.RunEvent]:
        """A whole run's events, as one reader of Chat sees them."""
        given = pb.RunInput(agent=AGENT, message=message, **fields)
        call = self.orchestrators[at].runs.Chat(pb.ChatRequest(input=given), timeout=timeout)
        return [event async for response in call for event in response.events]

    async def start(self, message: str, *, at: int = 0, **fields: object) -> pb.Run:
        given = pb.RunInput(agent=AGENT, message=message, **fields)
        response = await self.orchestrators[at].runs.StartRun(
            pb.StartRunRequest(input=given), timeout=10
        )
        return response.run

    async def watch(
        self, run_id: str, *, at: int = 0, after: int = 0, timeout: float = 60.0
    ) -> list[pb.RunEvent]:
        call = self.orchestrators[at].runs.WatchRun(
            pb.WatchRunRequest(run_id=run_id, after_sequence=after), timeout=timeout
        )
        return [event async for response in call for event in response.events]

    async def apply(self, agent: pb.Agent, *, at: int = 0) -> pb.Agent:
        response = await self.orchestrators[at].agents.ApplyAgent(
            pb.ApplyAgentRequest(agent=agent), timeout=10
        )
        return response.agent


def agent(
    name: str = AGENT,
    *,
    tools: Sequence[str] = ("calculator", "current_time", "knowledge_search"),
    **spec: object,
) -> pb.Agent:
    return pb.Agent(
        name=name,
        spec=pb.AgentSpec(
            model="claude-sonnet-5-5", system_prompt="Answer briefly.", tools=tools, **spec
        ),
    )


@asynccontextmanager
async def neighbours(
    *,
    dsn: str,
    redis_url: str,
    first_token: float = 0.0,
    tokens_per_second: float = 0.0,
    environ: Mapping[str, str] = os.environ,
    identity: bool | None = None,
) -> AsyncIterator[Stack]:
    """The simulator and every service but the orchestrator."""
    settings = SimulatorSettings(
        listen="127.0.0.1:0",
        control_listen="127.0.0.1:0",
        first_token_seconds=first_token,
        tokens_per_second=tokens_per_second,
    )
    async with contextlib.AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator.running(settings))
        shared = dict(environ) | {
            "PEREGRINE_LISTEN": "127.0.0.1:0",
            "PEREGRINE_METRICS_PORT": "0",
            "PEREGRINE_POSTGRES_DSN": dsn,
            "PEREGRINE_POSTGRES_POOL_SIZE": "6",
            "PEREGRINE_REDIS_URL": redis_url,
            "PEREGRINE_ANTHROPIC_BASE_URL": simulator.base_url,
            "PEREGRINE_TOOLS_MODULES": TOOLS_MODULE,
            "PEREGRINE_KNOWLEDGE_DIR": str(REPOSITORY / "examples" / "docs"),
            "PEREGRINE_HANDOVER_SECONDS": "0.2",
        }
        shared.pop("ANTHROPIC_API_KEY", None)
        credential = ""
        if identities.asked_for() if identity is None else identity:
            shared |= identities.ON
            shared["PEREGRINE_SECRET_BOOTSTRAP_API_KEY"] = identities.BOOTSTRAP
            credential = await new_key(dsn, context.LOCAL)
        else:
            shared |= identities.OFF
        for name, module in (
            ("MEMORY", memory),
            ("LLM_GATEWAY", llm_gateway),
            ("TOOLS", tools),
        ):
            server = await stack.enter_async_context(module.build(load(module.Settings, shared)))
            await stack.enter_async_context(_running(server))
            shared[f"PEREGRINE_{name}_TARGET"] = server.address
        yield Stack(simulator=simulator, environ=shared, credential=credential)


@asynccontextmanager
async def in_process(
    *,
    dsn: str,
    redis_url: str,
    orchestrators: int = 1,
    orchestrator_dsn: str = "",
    **options: object,
) -> AsyncIterator[Stack]:
    """Everything on this loop, with the agent `assistant` applied.

    With `orchestrator_dsn` the orchestrators reach PostgreSQL by another way than the others.
    """
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(
            neighbours(dsn=dsn, redis_url=redis_url, **options)  # type: ignore[arg-type]
        )
        for _ in range(orchestrators):
            environ = found.environ | {"PEREGRINE_POSTGRES_DSN": orchestrator_dsn or dsn}
            await stack.enter_async_context(orchestrator_in_process(found, environ))
        await found.apply(agent())
        yield found


@asynccontextmanager
async def orchestrator_in_process(stack: Stack, environ: Mapping[str, str]) -> AsyncIterator[None]:
    """One more orchestrator on this loop."""
    settings = load(orchestrator.Settings, environ)
    async with orchestrator.build(settings) as server, _running(server):
        async with _client(server.address, stack.credential, server=server) as client:
            stack.orchestrators.append(client)
            yield


@asynccontextmanager
async def processes(
    children: Children,
    *,
    dsn: str,
    redis_url: str,
    log_directory: Path,
    orchestrators: int = 2,
    **options: object,
) -> AsyncIterator[Stack]:
    """As `in_process`, but each orchestrator is a process that a test may kill, freeze or stop."""
    async with contextlib.AsyncExitStack() as stack:
        found = await stack.enter_async_context(
            neighbours(dsn=dsn, redis_url=redis_url, **options)  # type: ignore[arg-type]
        )
        for number in range(orchestrators):
            client = spawn(children, found, log_directory / f"orchestrator-{number}.log")
            found.orchestrators.append(await stack.enter_async_context(client))
        await found.apply(agent())
        yield found


@asynccontextmanager
async def spawn(children: Children, stack: Stack, log_path: Path) -> AsyncIterator[Orchestrator]:
    """One more orchestrator as a process, ready to serve."""
    address = f"127.0.0.1:{free_port()}"
    environ = stack.environ | {
        "PEREGRINE_LISTEN": address,
        "PYTHONPATH": os.pathsep.join((str(SERVICES), str(REPOSITORY))),
        "PYTHONUNBUFFERED": "1",
    }
    child = children.spawn(
        "orchestrator",
        [sys.executable, "-m", "peregrine", "orchestrator"],
        env=environ,
        log_path=log_path,
    )
    async with _client(address, stack.credential, child=child) as client:
        await eventually(lambda: _serves(client), timeout=30, what="the orchestrator serves")
        yield client


async def _serves(client: Orchestrator) -> bool:
    try:
        await client.agents.ListAgents(pb.ListAgentsRequest(), timeout=1, wait_for_ready=True)
    except grpc.aio.AioRpcError:
        return False
    return True


@asynccontextmanager
async def _client(
    address: str, credential: str, *, server: Server | None = None, child: Child | None = None
) -> AsyncIterator[Orchestrator]:
    async with channel_to(address, credential) as channel:
        yield Orchestrator(
            address=address,
            runs=rpc.OrchestratorServiceStub(channel),
            agents=rpc.AgentServiceStub(channel),
            server=server,
            child=child,
        )


def channel_to(address: str, credential: str) -> grpc.aio.Channel:
    """A channel whose calls show the credential, if there is one."""
    if not credential:
        return grpc.aio.insecure_channel(address)
    return ChannelPool(
        address,
        size=1,
        name="under-test",
        default_timeout=60.0,
        metadata=identities.bearer(credential),
    )


async def new_key(dsn: str, who: Identity, *scopes: str, **fields: object) -> str:
    """An API key, written where the orchestrators look; scope admin by default."""
    key_id, secret = credentials.new_key()
    credential = credentials.written(key_id, secret)
    new = {
        "key_id": key_id,
        "identity": who,
        "name": "of a test",
        "scopes": scopes or ("admin",),
        "secret_digest": credentials.digest(credential),
        "expire_time": None,
        "created_by": "tests",
        "request_id": "",
        "request_digest": b"",
    }
    async with await Database.connect(dsn, size=1) as database:
        await keys.KeyStore(database).insert(keys.NewKey(**(new | fields)))  # type: ignore[arg-type]
    return credential


@asynccontextmanager
async def _running(server: Server) -> AsyncIterator[None]:
    await server.start()
    try:
        await server.serving()
        yield
    finally:
        await server.stop(5.0)


def kinds(events: Sequence[pb.RunEvent]) -> list[str]:
    return [event.WhichOneof("payload") or "" for event in events]


def text(events: Sequence[pb.RunEvent]) -> str:
    """What a reader that obeys the log has on its screen at the end."""
    kept: list[pb.RunEvent] = []
    for event in events:
        kind = event.WhichOneof("payload")
        if kind == "generation_restarted":
            discard = event.generation_restarted.discard_from
            kept = [each for each in kept if each.sequence < discard]
        elif kind == "log_truncated":
            kept = [each for each in kept if each.sequence <= event.log_truncated.to]
        kept.append(event)
    return "".join(event.text_delta.text for event in kept)


def of(events: Sequence[pb.RunEvent], kind: str) -> list[object]:
    return [getattr(event, kind) for event in events if event.HasField(kind)]


def check_log(events: Sequence[pb.RunEvent]) -> None:
    """What holds for every log: gapless from 1, one terminal event, at the end."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds(events).count("run_finished") == 1
    assert events[-1].HasField("run_finished")


Predicate = Callable[[pb.RunEvent], bool]
