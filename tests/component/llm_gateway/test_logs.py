"""A generation as a log: read from anywhere, by its own tenant and user only."""

import grpc
import grpc.aio
import pytest

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from tests.component.llm_gateway.conftest import Gateway, Model, StartGateway, ask, read


def watch(generation_id: str, after: int = 0) -> pb.WatchGenerationRequest:
    return pb.WatchGenerationRequest(generation_id=generation_id, after_sequence=after)


async def reason(call: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(call)
    return from_rpc_error(caught.value).reason


async def test_a_finished_generation_is_read_again_from_every_position(
    gateway: Gateway, model: Model
) -> None:
    model.plays({"blocks": [{"type": "text", "tokens": 20}]})
    events = await read(gateway.stub.Generate(ask()))
    generation_id = events[0].started.generation_id

    for after in range(len(events) + 1):
        again = await read(gateway.stub.WatchGeneration(watch(generation_id, after)))
        assert again == events[after:]

    beyond = gateway.stub.WatchGeneration(watch(generation_id, len(events) + 1))
    assert await reason(beyond) == "EVENTS_COMPACTED"
    assert await reason(gateway.stub.WatchGeneration(watch(generation_id, -1))) == "REQUEST_INVALID"


async def test_nobody_reads_or_ends_a_generation_of_others(gateway: Gateway) -> None:
    with context.bind(identity=Identity("acme", "ann")):
        events = await read(gateway.stub.Generate(ask()))
        generation_id = events[0].started.generation_id
        assert await read(gateway.stub.WatchGeneration(watch(generation_id))) == events

    for other in (Identity("acme", "bob"), Identity("other", "ann")):
        with context.bind(identity=other):
            refused = await reason(gateway.stub.WatchGeneration(watch(generation_id)))
            assert refused == "GENERATION_NOT_FOUND"
            with pytest.raises(grpc.aio.AioRpcError):
                await gateway.stub.CancelGeneration(
                    pb.CancelGenerationRequest(generation_id=generation_id)
                )


async def test_only_so_many_finished_generations_are_kept(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(keep_generations=2)

    ids = [
        (await read(gateway.stub.Generate(ask(str(n)))))[0].started.generation_id for n in range(3)
    ]

    assert await reason(gateway.stub.WatchGeneration(watch(ids[0]))) == "GENERATION_NOT_FOUND"
    for kept in ids[1:]:
        assert (await read(gateway.stub.WatchGeneration(watch(kept))))[-1].HasField("finished")
