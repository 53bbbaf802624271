"""Peregrine as `make run` starts it, for measuring: services as processes, and the simulator's ear.

The services, their settings and their order are those of `peregrine.local.plan`. Added are the
tools of the test suite (which do nothing, or take a given time) and agents that may use them.
"""

import asyncio
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import httpx

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.kit.settings import load
from peregrine.local import health, plan
from peregrine.local.places import free_port
from peregrine.local.plan import Service, Stores
from peregrine.local.processes import Child, Children, until_ready
from peregrine.local.settings import LocalSettings

REPOSITORY = Path(__file__).parents[1]
AGENT = "bench"
TOOLS = ("echo", "sleep")

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_RUN_SECONDS = 60.0


@dataclasses.dataclass(slots=True, kw_only=True)
class Seen:
    """What a client saw of one run; times are seconds since it asked."""

    events: list[pb.RunEvent]
    first_text: float | None
    ended: float
    """When the terminal event was there."""
    wall: float
    """When the call was over."""

    @property
    def finished(self) -> pb.RunFinished:
        return self.events[-1].run_finished

    @property
    def whole(self) -> bool:
        """Nothing is missing, and it went well."""
        positions = [event.sequence for event in self.events]
        return (
            positions == list(range(1, len(positions) + 1))
            and self.events[-1].HasField("run_finished")
            and self.finished.state == pb.RUN_STATE_SUCCEEDED
        )


class Orchestrator:
    """An orchestrator process and the client of it."""

    def __init__(self, service: Service, child: Child, channel: grpc.aio.Channel) -> None:
        self.service = service
        self.child = child
        self.runs: Any = rpc.OrchestratorServiceStub(channel)
        self.agents: Any = rpc.AgentServiceStub(channel)

    def over(self, channel: grpc.aio.Channel) -> "Orchestrator":
        """Another client of the same process."""
        return Orchestrator(self.service, self.child, channel)

    async def chat(self, message: str) -> Seen:
        """A whole run."""
        begun = time.monotonic()
        events: list[pb.RunEvent] = []
        first: float | None = None
        ended = 0.0
        given = pb.RunInput(agent=AGENT, message=message)
        async for response in self.runs.Chat(pb.ChatRequest(input=given), timeout=_RUN_SECONDS):
            for event in response.events:
                if first is None and event.HasField("text_delta"):
                    first = time.monotonic() - begun
                events.append(event)
            ended = time.monotonic() - begun
        return Seen(events=events, first_text=first, ended=ended, wall=time.monotonic() - begun)

    async def start(self, message: str) -> str:
        given = pb.RunInput(agent=AGENT, message=message)
        response = await self.runs.StartRun(pb.StartRunRequest(input=given), timeout=10)
        return str(response.run.run_id)


class Simulator:
    """The simulator's control port."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self.base_url = base_url
        self._client = client

    async def play(self, *turns: Mapping[str, Any], latency: Mapping[str, float]) -> None:
        """From now on, a run's n-th model call plays the n-th turn."""
        await self._call("DELETE", "/script")
        await self._call("POST", "/script", {"latency": dict(latency), "turns": list(turns)})

    async def last(self) -> int:
        """The number of the newest request."""
        rows = (await self._call("GET", "/requests?limit=1&prompts=0"))["requests"]
        return int(rows[-1]["id"]) if rows else 0

    async def requests(self, after: int) -> list[dict[str, Any]]:
        """What it saw since, in the order in which it came."""
        answer = await self._call("GET", f"/requests?after={after}&limit=5000&prompts=0")
        rows: list[dict[str, Any]] = answer["requests"]
        return rows

    async def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        response = await self._client.request(method, path, json=body)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer


class Peregrine:
    """Everything that runs. `services` are those that were started, by name."""

    def __init__(
        self,
        *,
        children: Children,
        services: Mapping[str, Service],
        directory: Path,
        simulator: Simulator,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self.services = services
        self.simulator = simulator
        self._children = children
        self._directory = directory
        self._stack = stack
        self.first: Orchestrator

    def address(self, name: str) -> str:
        return self.services[name].address

    async def orchestrator(self, *, at: str = "") -> Orchestrator:
        """One more orchestrator, serving; `at`: where it listens."""
        address = at or f"{plan.HOST}:{free_port()}"
        own = self.services["orchestrator"]
        number = int(address.rpartition(":")[2])
        service = dataclasses.replace(
            own,
            ports=(plan.Port(number=number, variable=""),),
            environ={**own.environ, "PEREGRINE_LISTEN": address},
        )
        child = _spawn(self._children, service, self._directory)
        await until_ready(child, lambda: health.answers(service), deadline=_START_SECONDS)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        return Orchestrator(service, child, channel)


@contextlib.asynccontextmanager
async def running(
    children: Children, *, stores: Stores, directory: Path
) -> AsyncIterator[Peregrine]:
    """Every service on free ports, with the agent applied; the stores are there and migrated."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PEREGRINE_", "ANTHROPIC_"))
    }
    settings = load(
        LocalSettings,
        {f"PEREGRINE_LOCAL_{name}_PORT": "0" for name in _PORTS}
        | {"PEREGRINE_EXAMPLES_DIR": str(REPOSITORY / "examples")},
    )
    services = {
        service.name: service
        for service in plan.services(
            settings,
            ports=plan.ports(settings),
            stores=stores,
            environ=kept
            | {
                "PYTHONPATH": str(REPOSITORY),
                "PEREGRINE_TOOLS_MODULES": "tests.support.tools_module",
            },
            # Nobody answers there: no run here uses the example tools.
            stand_in=f"{plan.HOST}:{free_port()}",
        )
    }
    async with contextlib.AsyncExitStack() as stack:
        spawned = {name: _spawn(children, service, directory) for name, service in services.items()}
        stack.push_async_callback(_stop, list(spawned.values()))
        async with asyncio.TaskGroup() as starting:
            for name, service in services.items():
                starting.create_task(_ready(service, spawned[name]))
        api, control = services["simulator"].ports
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{plan.HOST}:{control.number}", timeout=10.0)
        )
        peregrine = Peregrine(
            children=children,
            services=services,
            directory=directory,
            simulator=Simulator(f"http://{plan.HOST}:{api.number}", client),
            stack=stack,
        )
        service = services["orchestrator"]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.address))
        peregrine.first = Orchestrator(service, spawned["orchestrator"], channel)
        await peregrine.first.agents.ApplyAgent(
            pb.ApplyAgentRequest(
                agent=pb.Agent(
                    name=AGENT,
                    spec=pb.AgentSpec(
                        model="claude-sonnet-5-5", system_prompt="Answer briefly.", tools=TOOLS
                    ),
                )
            ),
            timeout=10,
        )
        yield peregrine


_PORTS = (
    "ORCHESTRATOR",
    "LLM_GATEWAY",
    "TOOLS",
    "MEMORY",
    "CACHE",
    "EDGE",
    "SIMULATOR",
    "SIMULATOR_CONTROL",
)


def _spawn(children: Children, service: Service, directory: Path) -> Child:
    port = service.ports[0].number
    return children.spawn(
        service.name,
        [sys.executable, "-m", "peregrine", service.name],
        env=service.environ,
        log_path=directory / f"{service.name}-{port}.log",
    )


async def _ready(service: Service, child: Child) -> None:
    await until_ready(child, lambda: health.answers(service), deadline=_START_SECONDS)


async def _stop(children: Sequence[Child]) -> None:
    async with asyncio.TaskGroup() as stopping:
        for child in children:
            stopping.create_task(child.stop(grace=_STOP_SECONDS))
