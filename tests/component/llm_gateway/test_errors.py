"""What goes wrong at the provider, typed; and what is tried before a caller hears of it."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError, from_rpc_error
from tests.component.llm_gateway.conftest import (
    Gateway,
    Model,
    StartGateway,
    ask,
    kinds,
    read,
    said,
)
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.proxy import fault_proxy

HELLO = {"blocks": [{"type": "text", "text": "Hello."}]}


async def refusal(gateway: Gateway, request: pb.GenerateRequest, retries: int = 0) -> Any:
    with context.bind(retries=retries), pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(gateway.stub.Generate(request))
    return from_rpc_error(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT, "MODEL_REQUEST_REFUSED"),
        (401, grpc.StatusCode.UNAUTHENTICATED, "MODEL_KEY_REFUSED"),
        (403, grpc.StatusCode.PERMISSION_DENIED, "MODEL_FORBIDDEN"),
        (404, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (413, grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG"),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_RATE_LIMITED"),
        (500, grpc.StatusCode.UNAVAILABLE, "MODEL_UNREACHABLE"),
        (529, grpc.StatusCode.UNAVAILABLE, "MODEL_OVERLOADED"),
    ],
)
async def test_a_refusal_is_the_status_of_the_call(
    gateway: Gateway, model: Model, status: int, code: grpc.StatusCode, reason: str
) -> None:
    model.plays({"error": {"status": status, "message": "because", "retry_after": 7}})

    error: PeregrineError = await refusal(gateway, ask())

    assert (error.code, error.reason) == (code, reason)
    assert error.message == "because"
    assert error.metadata["request_id"].startswith("req_")
    assert error.retry_after == 7
    assert len(model.requests()) == 1


async def test_a_prompt_beyond_the_context_window_says_so(gateway: Gateway, model: Model) -> None:
    message = "prompt is too long: 208310 tokens > 200000 maximum"
    model.plays({"error": {"status": 400, "message": message}})

    assert (await refusal(gateway, ask())).reason == "PROMPT_TOO_LONG"


async def test_an_unknown_model_is_not_found(gateway: Gateway) -> None:
    error = await refusal(gateway, ask(prompt={"model": "gpt-x"}), retries=3)

    assert error.reason == "MODEL_NOT_FOUND"


async def test_an_overloaded_model_is_asked_again(gateway: Gateway, model: Model) -> None:
    overloaded = {"error": {"status": 529}}
    model.plays({"attempts": [overloaded, overloaded, HELLO]})

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["retrying", "started", "text_delta", "finished"]
    assert [event.retrying.error.reason for event in events[:2]] == ["MODEL_OVERLOADED"] * 2
    assert said(events) == "Hello."
    assert len(model.requests()) == 3


async def test_the_wait_that_the_provider_asks_for_is_kept(gateway: Gateway, model: Model) -> None:
    model.plays({"attempts": [{"error": {"status": 429, "retry_after": 0.5}}, HELLO]})

    events = await read(gateway.stub.Generate(ask()))

    assert events[0].retrying.delay.ToMilliseconds() >= 500
    first, second = model.requests()
    assert second.started - first.started >= 0.5


async def test_the_budget_of_the_run_bounds_the_retries(gateway: Gateway, model: Model) -> None:
    model.plays({"error": {"status": 529}})

    with context.bind(retries=1):
        events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["retrying", "failed"]
    assert events[-1].failed.error.reason == "MODEL_OVERLOADED"
    assert events[-1].failed.error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert len(model.requests()) == 2


async def test_a_fallback_model_answers_when_the_first_does_not(
    gateway: Gateway, model: Model
) -> None:
    model.plays({"error": {"status": 429, "retry_after": 600}}, match={"model": "claude-opus-5-5"})
    model.plays(HELLO, match={"model": "claude-haiku-5-5"})
    request = ask(prompt={"model": "claude-opus-5-5"}, fallback_models=["claude-haiku-5-5"])

    events = await read(gateway.stub.Generate(request))

    assert kinds(events) == ["retrying", "started", "text_delta", "finished"]
    assert events[0].retrying.model == events[1].started.model == "claude-haiku-5-5"


async def test_a_refusal_that_would_repeat_itself_is_not_tried_again(
    gateway: Gateway, model: Model
) -> None:
    model.plays({"error": {"status": 400}})

    await refusal(gateway, ask(fallback_models=["claude-haiku-5-5"]), retries=3)

    assert len(model.requests()) == 1


async def test_an_error_after_content_ends_the_log(gateway: Gateway, model: Model) -> None:
    model.plays(
        {
            "blocks": [{"type": "text", "tokens": 20}],
            "error": {"status": 529, "message": "too much", "after_tokens": 5},
        }
    )

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["started", "text_delta", "failed"]
    assert events[-1].failed.error.reason == "MODEL_OVERLOADED"
    assert events[-1].failed.error.message == "too much"
    assert events[-1].failed.usage.input_tokens > 0
    assert len(model.requests()) == 1


@pytest.mark.parametrize("protocol", ["auto", "1.1"])
@pytest.mark.parametrize("scope", ["stream", "connection"])
async def test_a_cut_after_content_is_unreachable(
    start_gateway: StartGateway, model: Model, scope: str, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays(
        {
            "blocks": [{"type": "text", "tokens": 20}],
            "cut": {"after_tokens": 5, "scope": scope},
            "latency": {"tokens_per_second": 50},
        }
    )

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["started", "text_delta", "failed"]
    assert events[-1].failed.error.reason == "MODEL_UNREACHABLE"


@pytest.mark.parametrize("protocol", ["auto", "1.1"])
@pytest.mark.parametrize("scope", ["stream", "connection"])
async def test_a_cut_before_content_is_tried_again(
    start_gateway: StartGateway, model: Model, scope: str, protocol: str
) -> None:
    gateway = await start_gateway(http_protocol=protocol)
    model.plays({"attempts": [{"cut": {"scope": scope}}, HELLO]})

    events = await read(gateway.stub.Generate(ask()))

    assert kinds(events) == ["retrying", "started", "text_delta", "finished"]
    assert events[0].retrying.error.reason == "MODEL_UNREACHABLE"


async def test_a_stalled_answer_is_given_up(start_gateway: StartGateway, model: Model) -> None:
    gateway = await start_gateway(idle_seconds=0.3)
    model.plays(
        {
            "blocks": [{"type": "text", "tokens": 20}],
            "stalls": [{"after_tokens": 5, "seconds": 60}],
        }
    )

    events = await read(gateway.stub.Generate(ask()))

    assert events[-1].failed.error.reason == "MODEL_TIMEOUT"
    assert await model.ended() == "client_closed"


async def test_the_callers_deadline_is_told_before_it_cuts(gateway: Gateway, model: Model) -> None:
    model.plays(
        {
            "blocks": [{"type": "text", "tokens": 20}],
            "stalls": [{"after_tokens": 5, "seconds": 60}],
        }
    )

    events = await read(gateway.stub.Generate(ask(), timeout=0.5))

    assert events[-1].failed.error.reason == "MODEL_TIMEOUT"


async def test_a_provider_that_is_away_is_unreachable_and_comes_back(
    start_gateway: StartGateway, model: Model
) -> None:
    async with fault_proxy(model.url.removeprefix("http://")) as proxy:
        gateway = await start_gateway(base_url=f"http://{proxy.address}")
        proxy.cut()
        assert (await refusal(gateway, ask())).reason == "MODEL_UNREACHABLE"
        proxy.resume()
        assert kinds(await read(gateway.stub.Generate(ask())))[-1] == "finished"


async def test_a_provider_that_was_never_there_keeps_nobody_from_serving(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(base_url=f"http://127.0.0.1:{free_port()}")

    assert (await refusal(gateway, ask())).reason == "MODEL_UNREACHABLE"


async def test_warm_connections_are_replaced_when_they_are_lost(
    start_gateway: StartGateway, model: Model
) -> None:
    async with fault_proxy(model.url.removeprefix("http://")) as proxy:
        await start_gateway(base_url=f"http://{proxy.address}", connections=2)
        await eventually(lambda: proxy.connections == 2)
        proxy.cut()
        await eventually(lambda: proxy.connections == 0)
        proxy.resume()
        await eventually(lambda: proxy.connections == 2)


async def test_more_than_the_gateway_takes_is_refused_at_once(
    start_gateway: StartGateway, model: Model
) -> None:
    gateway = await start_gateway(max_generations=1)
    model.plays({"blocks": [{"type": "text", "text": "Late."}], "latency": {"first_token": 60}})
    call = gateway.stub.Generate(ask())
    reading = asyncio.create_task(read(call))
    await eventually(model.requests)

    error = await refusal(gateway, ask())

    assert error.reason == "GATEWAY_OVERLOADED"
    assert error.retry_after
    call.cancel()
    await asyncio.wait([reading])


async def test_an_answer_without_end_is_ended(start_gateway: StartGateway, model: Model) -> None:
    gateway = await start_gateway(max_answer_bytes=4096)
    model.plays({"blocks": [{"type": "text", "tokens": 1000}]})

    events = await read(gateway.stub.Generate(ask()))

    assert events[-1].failed.error.reason == "ANSWER_TOO_LARGE"


async def test_a_request_that_no_model_could_take_names_its_fields(gateway: Gateway) -> None:
    request = pb.GenerateRequest()
    request.prompt.model = "claude-sonnet-5-5"
    request.prompt.messages.add(role="ROLE_USER").content.add().opaque.utf8 = b"[1"
    request.prompt.temperature = 3

    error = await refusal(gateway, request)

    assert error.reason == "REQUEST_INVALID"
    fields = [field for field, _ in error.violations]
    assert fields == ["prompt.messages[0].content[0].opaque", "prompt.temperature"]
