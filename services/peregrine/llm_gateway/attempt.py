"""One call to the provider, written into a generation's log as it comes.

The times of the terminal event are those of the attempt that succeeded; what earlier attempts and
the waits between them took is in `queue_ms`, the time before the right call was made.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as pb
from peregrine.kit.errors import DeadlineExceeded, PeregrineError, Unavailable
from peregrine.llm_gateway.generations import Generation
from peregrine.llm_gateway.provider import Provider, Stream, explain_event
from peregrine.llm_gateway.translation import Translation

# How long the stream may take to end after the answer did; then it is reset.
END_SECONDS = 1.0


@dataclass(slots=True)
class Clock:
    """Of a whole generation, in seconds: when it was asked for (monotonic), what building its
    request took, and what the gateway itself has worked on it."""

    started: float
    built: float
    working: float = 0.0

    def __post_init__(self) -> None:
        self.working = self.built

    @contextmanager
    def building(self) -> Iterator[None]:
        """Counts the block as building the request."""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        self.built += took
        self.working += took


class Attempt:
    """Makes one call. `answer` and `first_content` (monotonic, 0 if none) tell how far it came.

    Args:
      content: the encoded request.
      deadline: when the caller stops waiting, monotonic.
      idle: seconds of silence, give or take 5 %, after which the provider is given up.
    """

    def __init__(
        self,
        *,
        model: str,
        content: bytes,
        generation: Generation,
        provider: Provider,
        deadline: float,
        idle: float,
        clock: Clock,
    ) -> None:
        self.answer = Translation()
        self.first_content = 0.0
        self._model = model
        self._generation = generation
        self._deadline = deadline
        self._idle = idle
        self._clock = clock
        self._stream = provider.stream(content)
        self._sent = time.monotonic()
        # When the alarm is to be set anew.
        self._patience = 0.0

    async def run(self) -> None:
        """Raises PeregrineError: one of the MODEL_… reasons, or ANSWER_TOO_LARGE."""
        stream = self._stream
        try:
            async with (
                asyncio.timeout_at(self._alarm(self._sent)) as silence,
                stream,
                aclosing(stream.batches()) as batches,
            ):
                async for events in batches:
                    now = time.monotonic()
                    self._take(events, stream, now)
                    self._reset(silence, now)
                    self._clock.working += time.monotonic() - now
                    if self._generation.ended:
                        # Its readers are told before the rest is looked after.
                        await asyncio.sleep(0)
        except (PeregrineError, TimeoutError) as error:
            # What goes wrong after the answer is complete is no part of it.
            if self._generation.ended:
                return
            if isinstance(error, TimeoutError):
                raise self._late() from None
            raise
        if not self._generation.ended:
            raise Unavailable(
                "the model's answer was cut off",
                reason="MODEL_UNREACHABLE",
                metadata={"model": self._model},
            )

    def _take(self, events: list[dict[str, Any]], stream: Stream, now: float) -> None:
        """Writes what the provider's events say; those that came together stay together."""
        generation, answer = self._generation, self.answer
        if generation.ended:
            return
        made = [said for event in events if (said := answer.feed(event)) is not None]
        if answer.has_content and not self.first_content:
            self.first_content = now
        if answer.prompt_usage is not None and not generation.started:
            generation.started = True
            made.insert(0, self._started(stream))
        generation.usage.CopyFrom(answer.usage)
        if answer.done:
            made.append(self._finished(stream, now))
        if made:
            generation.append(made)
        if answer.error is not None:
            raise explain_event(answer.error.kind, answer.error.message)

    def _reset(self, silence: asyncio.Timeout, now: float) -> None:
        """Moves the alarm on, though not at every event: it is dear beside the rest."""
        if self._generation.ended:
            silence.reschedule(now + END_SECONDS)
        elif now >= self._patience:
            self._patience = now + self._idle / 20
            silence.reschedule(self._alarm(self._patience))

    def _alarm(self, now: float) -> float:
        # The clock of the event loop is the monotonic one.
        return min(now + self._idle, self._deadline)

    def _late(self) -> DeadlineExceeded:
        if time.monotonic() >= self._deadline:
            what = "the model did not finish in the time that the caller gave"
        else:
            what = f"the model sent nothing for {self._idle:g} s"
        return DeadlineExceeded(what, reason="MODEL_TIMEOUT", metadata={"model": self._model})

    def _started(self, stream: Stream) -> pb.GenerationEvent:
        started = pb.GenerationStarted(
            generation_id=self._generation.id,
            model=self._model,
            simulated=stream.simulated,
            prompt_usage=self.answer.prompt_usage,
        )
        return pb.GenerationEvent(started=started)

    def _finished(self, stream: Stream, now: float) -> pb.GenerationEvent:
        clock, answer = self._clock, self.answer
        first = self.first_content or now
        times = pb.GenerationTimes(
            queue_ms=(self._sent - clock.started - clock.built) * 1e3,
            build_ms=clock.built * 1e3,
            connect_ms=stream.connect_seconds * 1e3,
            first_token_ms=(first - self._sent - stream.connect_seconds) * 1e3,
            decode_ms=(now - first) * 1e3,
        )
        finished = pb.GenerationFinished(
            stop_reason=answer.stop_reason, usage=answer.usage, times=times
        )
        return pb.GenerationEvent(finished=finished)
