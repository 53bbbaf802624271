"""The servicer of `LlmService`: check, translate, call, translate.

`Generate` starts a generation and reads its log as any other reader does. An error before the first
event is the status of the call; afterwards it is the last event, because a stream that has begun is
a log that has an end.

Not built here yet, and answered with UNIMPLEMENTED: `GetUsage` (it needs the ledger).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2_grpc
from peregrine.kit import context
from peregrine.kit.errors import DeadlineExceeded, InvalidArgument
from peregrine.llm_gateway import requests
from peregrine.llm_gateway.calling import Call, Limits
from peregrine.llm_gateway.generations import Generation, Generations
from peregrine.llm_gateway.metrics import Metrics
from peregrine.llm_gateway.provider import Provider

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 200
# A page token is the provider's: a model's name.
_MAX_PAGE_TOKEN = 256
_UNARY_SECONDS = 30.0


class LlmServicer(llm_gateway_pb2_grpc.LlmServiceServicer):
    def __init__(
        self,
        *,
        provider: Provider,
        generations: Generations,
        metrics: Metrics,
        limits: Limits,
    ) -> None:
        self._provider = provider
        self._generations = generations
        self._metrics = metrics
        self._limits = limits

    async def Generate(
        self, request: pb.GenerateRequest, _: Context
    ) -> AsyncIterator[pb.GenerateResponse]:
        started = time.monotonic()
        identity = context.identity()
        requests.check_fallbacks(request.fallback_models)
        body = requests.generation(request.prompt, prompt_caching=request.prompt_caching)
        call = Call(
            body=body,
            models=(request.prompt.model, *request.fallback_models),
            provider=self._provider,
            metrics=self._metrics,
            limits=self._limits,
            started=started,
            built=time.monotonic() - started,
        )
        generation = self._generations.start(identity, call.run)
        try:
            async for response in generation.follow(0, pb.GenerateResponse):
                first = response.events[0]
                if generation.failure is not None and first.sequence == 1:
                    if first.HasField("failed"):
                        raise generation.failure
                yield response
        finally:
            await self._generations.leave(generation)

    async def WatchGeneration(
        self, request: pb.WatchGenerationRequest, _: Context
    ) -> AsyncIterator[pb.WatchGenerationResponse]:
        if request.after_sequence < 0:
            raise InvalidArgument(
                "a position is not negative",
                reason="REQUEST_INVALID",
                violations=[("after_sequence", "is negative")],
            )
        generation = self._find(request.generation_id)
        generation.readers += 1
        try:
            after = request.after_sequence
            async for response in generation.follow(after, pb.WatchGenerationResponse):
                yield response
        finally:
            await self._generations.leave(generation)

    async def CancelGeneration(
        self, request: pb.CancelGenerationRequest, _: Context
    ) -> pb.CancelGenerationResponse:
        cancelled = await self._find(request.generation_id).cancel()
        return pb.CancelGenerationResponse(cancelled=cancelled)

    async def CountTokens(
        self, request: pb.CountTokensRequest, _: Context
    ) -> pb.CountTokensResponse:
        context.identity()
        content = requests.encode(requests.counting(request.prompt), request.prompt.model)
        async with _Patience():
            count = await self._provider.count_tokens(content)
        return pb.CountTokensResponse(input_tokens=count)

    async def ListModels(self, request: pb.ListModelsRequest, _: Context) -> pb.ListModelsResponse:
        context.identity()
        if request.page_size < 0 or len(request.page_token) > _MAX_PAGE_TOKEN:
            raise InvalidArgument(
                "the page is not one",
                reason="REQUEST_INVALID",
                violations=[("page_size", "is negative, or page_token is not one of ours")],
            )
        limit = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
        async with _Patience():
            models, after = await self._provider.list_models(limit=limit, after=request.page_token)
        return pb.ListModelsResponse(
            models=[
                pb.Model(name=each.name, display_name=each.display_name, simulated=each.simulated)
                for each in models
            ],
            next_page_token=after,
        )

    def _find(self, generation_id: str) -> Generation:
        return self._generations.find(generation_id, context.identity())


class _Patience:
    """Bounds a short call to the provider by the caller's deadline."""

    def __init__(self) -> None:
        left = context.deadline_remaining()
        self._timeout = asyncio.timeout(
            _UNARY_SECONDS if left is None else min(left, _UNARY_SECONDS)
        )

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceeded(
                "the model provider did not answer in time", reason="MODEL_TIMEOUT"
            ) from None
