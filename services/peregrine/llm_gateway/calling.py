"""One generation, from the request to the terminal event.

An attempt is one call to the provider. What fails before any content was handed on is made again
while the run's retry budget lasts, then with the caller's fallback models; `retrying` events say
so. After content, an error ends the log: text that was shown is not taken back here.

`started` is said once, when the provider has first accepted the call; if the call is made again
after that, `retrying` names the model.

The times of the terminal event are measured on the attempt that succeeded; what earlier attempts
and the waits between them took is in `queue_ms`, the time before the right call was made.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit import context
from peregrine.kit.errors import DeadlineExceeded, PeregrineError, Unavailable
from peregrine.llm_gateway import provider, requests, retrying
from peregrine.llm_gateway.generations import Generation, to_error
from peregrine.llm_gateway.metrics import Metrics
from peregrine.llm_gateway.translation import Translation

log = structlog.get_logger(__name__)

# What is kept of the caller's time to tell it that it is over, rather than let it be cut off.
DEADLINE_MARGIN = 0.02
# How long the stream may take to end after the answer did; then it is reset.
END_SECONDS = 1.0


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
        provider: provider.Provider,
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
        self._limits = limits
        self._budget = context.retry_budget()
        # Everything below is in seconds on the monotonic clock.
        self._started = started
        left = context.deadline_remaining()
        allowed = limits.generation if left is None else min(limits.generation, left)
        self._deadline = time.monotonic() + allowed - DEADLINE_MARGIN
        self._built = built
        self._working = built
        self._said_started = False

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
            metrics.overhead.observe(self._working)

    async def _attempts(self, generation: Generation) -> None:
        at, attempt = 0, 1
        while True:
            model = self._models[at]
            answer = Translation()
            status = "cancelled"
            try:
                await self._attempt(generation, model, answer)
                status = "success"
                return
            except PeregrineError as error:
                status = error.reason
                if answer.has_content:
                    raise
                time_left = self._deadline - time.monotonic()
                decision = retrying.decide(
                    error,
                    attempt=attempt,
                    retries_left=self._budget.remaining,
                    models_left=len(self._models) - at - 1,
                    time_left=time_left,
                    longest_wait=self._limits.wait,
                    chance=random.random(),
                )
                failure = error
            finally:
                self._count(model, status, answer)
            match decision:
                case retrying.GiveUp():
                    raise failure
                case retrying.NextModel():
                    at, attempt, delay = at + 1, 1, 0.0
                case retrying.Again(delay):
                    self._budget.take()
                    attempt += 1
            self._say_retrying(generation, failure, self._models[at], delay)
            await asyncio.sleep(delay)

    async def _attempt(self, generation: Generation, model: str, answer: Translation) -> None:
        began = time.monotonic()
        content = requests.encode(self._body, model)
        sent = time.monotonic()
        self._working += sent - began
        first = 0.0
        # The alarm is set anew at every 20th of its time only: it is dear beside the rest.
        patience = 0.0
        try:
            async with asyncio.timeout_at(self._silence(sent)) as silence:
                async with (
                    self._provider.stream(content, deadline=self._deadline) as stream,
                    aclosing(stream.batches()) as batches,
                ):
                    async for events in batches:
                        now = time.monotonic()
                        if now >= patience and not generation.ended:
                            patience = now + self._limits.idle / 20
                            silence.reschedule(self._silence(patience))
                        made = [said for each in events if (said := answer.feed(each)) is not None]
                        if answer.has_content and not first:
                            first = now
                            label = self._metrics.model(model)
                            self._metrics.first_token.labels(label).observe(now - self._started)
                        if answer.prompt_usage is not None and not self._said_started:
                            self._said_started = True
                            made.insert(0, _started(generation, model, stream.simulated, answer))
                        generation.usage.CopyFrom(answer.usage)
                        if answer.done and not generation.ended:
                            first = first or now
                            connect = stream.connect_seconds
                            made.append(
                                _finished(
                                    answer,
                                    queue=began - self._started - self._built,
                                    build=sent - began + self._built,
                                    connect=connect,
                                    first_token=first - sent - connect,
                                    decode=now - first,
                                )
                            )
                            # What may still come is the end of the stream, no part of the answer.
                            silence.reschedule(now + END_SECONDS)
                        if made:
                            generation.append(made)
                        if answer.error is not None:
                            raise provider.explain_event(answer.error.kind, answer.error.message)
                        self._working += time.monotonic() - now
        except (PeregrineError, TimeoutError) as error:
            if generation.ended:
                return
            if isinstance(error, TimeoutError):
                raise self._late(model) from None
            raise
        if not generation.ended:
            raise Unavailable(
                "the model's answer was cut off",
                reason="MODEL_UNREACHABLE",
                metadata={"model": model},
            )

    def _silence(self, now: float) -> float:
        """When to give up if nothing comes; the event loop's clock is the monotonic one."""
        return min(now + self._limits.idle, self._deadline)

    def _late(self, model: str) -> DeadlineExceeded:
        if time.monotonic() >= self._deadline:
            what = "the model did not finish in the time that the caller gave"
        else:
            what = f"the model sent nothing for {self._limits.idle:g} s"
        return DeadlineExceeded(what, reason="MODEL_TIMEOUT", metadata={"model": model})

    def _say_retrying(
        self, generation: Generation, error: PeregrineError, model: str, delay: float
    ) -> None:
        log.info("generation_retrying", reason=error.reason, model=model, delay=delay)
        retrying_event = pb.GenerationRetrying(error=to_error(error), model=model)
        retrying_event.delay.FromNanoseconds(int(delay * 1e9))
        generation.append((pb.GenerationEvent(retrying=retrying_event),))

    def _count(self, model: str, status: str, answer: Translation) -> None:
        # A name that no model has is not worth a label.
        label = "other" if status == "MODEL_NOT_FOUND" else self._metrics.model(model)
        self._metrics.requests.labels(label, status).inc()
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


def _started(
    generation: Generation, model: str, simulated: bool, answer: Translation
) -> pb.GenerationEvent:
    started = pb.GenerationStarted(
        generation_id=generation.id,
        model=model,
        simulated=simulated,
        prompt_usage=answer.prompt_usage,
    )
    return pb.GenerationEvent(started=started)


def _finished(
    answer: Translation,
    *,
    queue: float,
    build: float,
    connect: float,
    first_token: float,
    decode: float,
) -> pb.GenerationEvent:
    times = pb.GenerationTimes(
        queue_ms=queue * 1e3,
        build_ms=build * 1e3,
        connect_ms=connect * 1e3,
        first_token_ms=first_token * 1e3,
        decode_ms=decode * 1e3,
    )
    finished = pb.GenerationFinished(
        stop_reason=answer.stop_reason, usage=answer.usage, times=times
    )
    return pb.GenerationEvent(finished=finished)
