"""What the llm-gateway adds to a streamed model call, beside the same call made with the SDK."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import grpc.aio

from benchmarks.lab import Lab
from benchmarks.measurements.overhead import ANSWER, LATENCY, milliseconds
from benchmarks.rows import Row, median
from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2_grpc as rpc

_CALLS = 30
_WARM_UP = 5
_MODEL = "claude-sonnet-5-5"
_QUESTION = "What is the answer?"
_SECONDS = 10.0


async def gateway(lab: Lab) -> AsyncIterator[Row]:
    echo = await lab.echo()
    peregrine = await lab.peregrine()
    await peregrine.simulator.play(ANSWER, latency=LATENCY)
    sdk = anthropic.AsyncAnthropic(
        base_url=peregrine.simulator.base_url,
        api_key="simulated",
        max_retries=0,
        timeout=_SECONDS,
        http_client=anthropic.DefaultAsyncHttpxClient(http1=False, http2=True),
    )
    channel = grpc.aio.insecure_channel(peregrine.address("llm-gateway"))
    stub: Any = rpc.LlmServiceStub(channel)

    async def direct() -> None:
        stream = await sdk.messages.create(
            model=_MODEL,
            max_tokens=100,
            messages=[{"role": "user", "content": _QUESTION}],
            stream=True,
        )
        async for _ in stream:
            pass

    async def through() -> None:
        prompt = pb.Prompt(
            model=_MODEL,
            messages=[
                common.Message(role=common.ROLE_USER, content=[common.ContentBlock(text=_QUESTION)])
            ],
            max_output_tokens=100,
        )
        finished = False
        async for response in stub.Generate(pb.GenerateRequest(prompt=prompt), timeout=_SECONDS):
            finished = response.events[-1].HasField("finished")
        if not finished:
            raise RuntimeError("a generation did not finish")

    async with sdk, channel:
        for _ in range(_WARM_UP):
            await direct()
            await through()
        bare, own = [], []
        for _ in range(_CALLS):
            bare.append(await _timed(direct))
            own.append(await _timed(through))
    await echo.sample()
    added = median(own) - median(bare)
    yield Row(
        name="llm-gateway: added to a streamed call made with the SDK, p50",
        value=added / echo.p50,
        unit="echoes",
        detail={
            "added_ms": added * 1e3,
            "direct_ms": milliseconds(bare),
            "through_ms": milliseconds(own),
        },
    )


async def _timed(call: Callable[[], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    await call()
    return time.perf_counter() - begun
