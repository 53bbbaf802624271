"""One generation, from the request to the terminal event.

An attempt is one call to the provider. What fails before any content was handed on is made again
while the run's retry budget lasts, then with the caller's fallback models; `retrying` events say
so. After content, an error ends the log: text that was shown is not taken back here.

`started` is said once, when the provider has first accepted the call; if the call is made again
after that, `retrying` names the model.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError
from peregrine.llm_gateway import requests, retrying
from peregrine.llm_gateway.attempt import Attempt, Clock
from peregrine.llm_gateway.generations import Generation, to_error
from peregrine.llm_gateway.metrics import Metrics
from peregrine.llm_gateway.provider import Provider

log = structlog.get_logger(__name__)

# What is kept of the caller's time to tell it that it is over, rather than let it be cut off.
DEADLINE_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds.

    generation: longest generation when the caller set no deadline.
    idle: longest silence of the provider within an answer, and before it, give or take 5 %.
    wait: longest wait before a retry; a longer one is left to the caller.
    """

    generation: float
    idle: float
    wait: float


class Call:
    """Makes one generation. `run` is the work of its task."""

    def __init__(
        self,
        *,
        body: requests.Body,
        models: Sequence[str],
        provider: Provider,
        metrics: Metrics,
        limits: Limits,
        started: float,
        built: float,
    ) -> None:
        """`started` is when the request came, `built` the seconds that building `body` took."""
        self._body = body
        self._models = models
        self._provider = provider
        self._metrics = metrics
        self._idle = limits.idle
        self._longest_wait = limits.wait
        self._budget = context.retry_budget()
        self._clock = Clock(started=started, built=built)
        left = context.deadline_remaining()
        allowed = limits.generation if left is None else min(limits.generation, left)
        self._deadline = time.monotonic() + allowed - DEADLINE_MARGIN

    async def run(self, generation: Generation) -> None:
        metrics = self._metrics
        metrics.inflight.inc()
        try:
            await self._attempts(generation)
        except PeregrineError as error:
            log.info("generation_failed", reason=error.reason, **error.metadata)
            generation.fail(error)
        finally:
            metrics.inflight.dec()
            metrics.overhead.observe(self._clock.working)

    async def _attempts(self, generation: Generation) -> None:
        at, tries = 0, 1
        while True:
            model = self._models[at]
            with self._clock.building():
                content = requests.encode(self._body, model)
            attempt = Attempt(
                model=model,
                content=content,
                generation=generation,
                provider=self._provider,
                deadline=self._deadline,
                idle=self._idle,
                clock=self._clock,
            )
            status = ""
            try:
                return await attempt.run()
            except PeregrineError as error:
                status = error.reason
                if attempt.answer.has_content:
                    raise
                decision = retrying.decide(
                    error,
                    attempt=tries,
                    retries_left=self._budget.remaining,
                    models_left=len(self._models) - at - 1,
                    time_left=self._deadline - time.monotonic(),
                    longest_wait=self._longest_wait,
                    chance=random.random(),
                )
                failure = error
            finally:
                ended = "success" if generation.ended else "cancelled"
                self._count(model, status or ended, attempt)
            match decision:
                case retrying.GiveUp():
                    raise failure
                case retrying.NextModel():
                    at, tries, delay = at + 1, 1, 0.0
                case retrying.Again(delay):
                    self._budget.take()
                    tries += 1
            self._say_retrying(generation, failure, self._models[at], delay)
            await asyncio.sleep(delay)

    def _say_retrying(
        self, generation: Generation, error: PeregrineError, model: str, delay: float
    ) -> None:
        log.info("generation_retrying", reason=error.reason, model=model, delay=delay)
        retrying_event = pb.GenerationRetrying(error=to_error(error), model=model)
        retrying_event.delay.FromNanoseconds(int(delay * 1e9))
        generation.append((pb.GenerationEvent(retrying=retrying_event),))

    def _count(self, model: str, status: str, attempt: Attempt) -> None:
        # A name that no model has is not worth a label.
        label = "other" if status == "MODEL_NOT_FOUND" else self._metrics.model(model)
        self._metrics.requests.labels(label, status).inc()
        if attempt.first_content:
            waited = attempt.first_content - self._clock.started
            self._metrics.first_token.labels(label).observe(waited)
        answer = attempt.answer
        if answer.broken_arguments:
            self._metrics.broken_arguments.inc(answer.broken_arguments)
        usage = answer.usage
        prompt = 0
        for kind, count in (
            ("input", usage.input_tokens),
            ("cache_read", usage.cache_read_input_tokens),
            ("cache_creation", usage.cache_creation_input_tokens),
        ):
            self._metrics.tokens.labels(label, kind).inc(count)
            prompt += count
        self._metrics.tokens.labels(label, "output").inc(usage.output_tokens)
        if prompt:
            self._metrics.prompt_tokens.labels(label).observe(prompt)
