"""The gateway in this process, behind real gRPC, in front of the real simulator."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2_grpc
from peregrine.kit.channel import ChannelPool
from peregrine.llm_gateway.main import Settings, build
from peregrine.simulator.main import Simulator, SimulatorSettings
from peregrine.simulator.record import Record
from tests.support import certificates
from tests.support.eventually import eventually

MODEL = "claude-sonnet-5-5"
Stub = llm_gateway_pb2_grpc.LlmServiceStub


class Gateway:
    """A running gateway: `stub` calls it, `pool` shows its connections to the provider."""

    def __init__(self, stub: Stub, registry: CollectorRegistry) -> None:
        self.stub = stub
        self.registry = registry

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


class Model:
    """The simulator, as tests speak to it."""

    def __init__(self, simulator: Simulator) -> None:
        self.url = simulator.base_url
        self.state = simulator.state

    def plays(self, *turns: Any, **script: Any) -> None:
        self.state.scripts.add({"turns": list(turns), **script})

    def requests(self) -> list[Record]:
        return [each for each in self.state.records if each.path == "/v1/messages"]

    async def ended(self, number: int = 0) -> str:
        """How the `number`-th request ended, once it has."""

        def ended() -> str | None:
            requests = self.requests()
            return requests[number].ended if number < len(requests) else None

        return str(await eventually(ended))


StartGateway = Callable[..., Any]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a certificate for localhost and its key."""
    return certificates.files(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    settings = SimulatorSettings(
        listen="127.0.0.1:0",
        control_listen="127.0.0.1:0",
        seed=7,
        first_token_seconds=0.0,
        tokens_per_second=0.0,
    )
    async with Simulator.running(settings) as simulator:
        yield Model(simulator)


@pytest.fixture
async def start_gateway(model: Model) -> AsyncIterator[StartGateway]:
    """Starts a gateway with the given settings; by default in front of `model`."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Gateway:
            given = {
                "auth_required": False,
                "listen": "127.0.0.1:0",
                "base_url": model.url,
                "drain_seconds": 0.5,
            }
            registry = CollectorRegistry()
            server = await stack.enter_async_context(
                build(Settings(**{**given, **settings}), registry=registry)
            )
            await stack.enter_async_context(server)
            await server.serving()
            channel = await stack.enter_async_context(
                ChannelPool(server.address, size=1, name="llm-gateway", default_timeout=20.0)
            )
            await channel.warm(10.0)
            return Gateway(Stub(channel), registry)

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    started: Gateway = await start_gateway()
    return started


def ask(text: str = "hello", *, tools: bool = False, **fields: Any) -> pb.GenerateRequest:
    """A request of one user message; `fields` are of GenerateRequest, or of the prompt in it."""
    prompt: dict[str, Any] = {"model": MODEL}
    prompt |= fields.pop("prompt", {})
    request = pb.GenerateRequest(prompt=pb.Prompt(**prompt), **fields)
    if not request.prompt.messages:
        request.prompt.messages.add(role="ROLE_USER").content.add(text=text)
    if tools:
        tool = request.prompt.tools.add(name="calculator", description="Does arithmetic.")
        tool.input_schema.utf8 = b'{"type":"object"}'
    return request


async def read(call: Any) -> list[pb.GenerationEvent]:
    """All events of a stream."""
    return [event async for response in call for event in response.events]


def kinds(events: list[pb.GenerationEvent]) -> list[str | None]:
    """The kinds of the events, each run of the same kind once."""
    found: list[str | None] = []
    for event in events:
        kind = event.WhichOneof("payload")
        if not found or found[-1] != kind:
            found.append(kind)
    return found


def said(events: list[pb.GenerationEvent]) -> str:
    return "".join(event.text_delta.text for event in events)
