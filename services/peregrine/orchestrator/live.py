"""One run at work in this process: its task, and the ways in which it leaves.

It ends; or its lease is lost (the task stops and writes nothing more); or it is handed over. Why
the task was cancelled is said by flags, since a cancellation carries no reason.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import context, errors
from peregrine.kit.channel import DEADLINE_MARGIN
from peregrine.kit.eventlog import Fenced, Ready
from peregrine.orchestrator.facts import Facts, at_work
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.plan import Plan
from peregrine.orchestrator.remembering import NotRemembered
from peregrine.orchestrator.replay import Replay
from peregrine.orchestrator.store import Store
from peregrine.orchestrator.toolcalls import InDoubt
from peregrine.orchestrator.turn import Turn
from peregrine.orchestrator.upstream import ModelCall, Upstream, to_proto
from peregrine.orchestrator.waterfall import Recorder

_HANDOVER_SECONDS = 5.0
# Between the end of a run and its own bookkeeping.
_AFTERWARDS_SECONDS = 0.001

log = structlog.get_logger(__name__)


class LiveRun:
    """Owns the task of one run, from `begin` on.

    Args:
      replay: where the run stands; kept up to date.
      remaining: seconds until the deadline of the run.
      proof: shows other services for whom the run is; None where identity is off.
      ahead: the first model call, where it was made before the run was accepted.
    """

    def __init__(
        self,
        *,
        facts: Facts,
        plan: Plan,
        replay: Replay,
        journal: Journal,
        recorder: Recorder,
        remaining: float,
        store: Store,
        upstream: Upstream,
        metrics: Metrics,
        proof: context.Proof | None,
        ahead: ModelCall | None,
    ) -> None:
        self.facts = facts
        self.journal = journal
        self._plan = plan
        self._replay = replay
        self._recorder = recorder
        self._proof = proof
        self._remaining = max(remaining, 0.0)
        self._until = asyncio.get_running_loop().time() + self._remaining
        self._store = store
        self._metrics = metrics
        self._turn = Turn(
            facts=facts,
            plan=plan,
            replay=replay,
            journal=journal,
            upstream=upstream,
            recorder=recorder,
            metrics=metrics,
            ahead=ahead,
        )
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._handing_over = False
        # The terminal event is being written: nothing stops the task any more.
        self._ending = False

    def begin(self, loaded: memory.BeginTurnResponse | None) -> asyncio.Task[None]:
        """Sets it to work, under a context of its own: the caller's deadline is not the run's."""
        with at_work(self.facts, proof=self._proof, remaining=self._remaining):
            self._task = asyncio.create_task(self._work(loaded))
        return self._task

    def cancel(self) -> None:
        """Somebody asked for it; it ends as CANCELLED."""
        if not self._cancelled:
            self._cancelled = True
            self._stop()

    def hand_over(self) -> None:
        """Another orchestrator is to go on with it."""
        self._handing_over = True
        self._stop()

    def _stop(self) -> None:
        if self._task is not None and not self._ending:
            self._task.cancel()

    async def _watch_lease(self) -> None:
        """Stops the work on a run that this process no longer owns."""
        await self.journal.writer.lost.wait()
        self._stop()

    async def _work(self, loaded: memory.BeginTurnResponse | None) -> None:
        """The whole task; the broad catch at its top."""
        writer = self.journal.writer
        lease = asyncio.create_task(self._watch_lease())
        try:
            with self._metrics.at_work(self._plan.agent, self.journal):
                await self._go(loaded)
        except asyncio.CancelledError:
            if self._handing_over:
                await self._release()
            elif writer.lost.is_set():
                log.info("run_lost")
            else:
                raise
        except Fenced:
            log.info("run_lost")
        except errors.Unavailable as error:
            # PostgreSQL is away for longer than the log can hold: whoever claims it goes on.
            log.warning("run_abandoned", reason=error.reason)
        except Exception:
            # Nobody here can end it: when the lease has run out, somebody may do better.
            self._metrics.failures.inc()
            log.exception("run_broke")
            writer.discard()
        finally:
            lease.cancel()
            self._turn.close()

    async def _go(self, loaded: memory.BeginTurnResponse | None) -> None:
        outcome = await self._outcome(self._turn.run(loaded))
        remembering = self._turn.remembering
        if remembering is not None and outcome.state == pb.RUN_STATE_SUCCEEDED:
            try:
                return await self._end(outcome, ready=remembering.soon)
            except NotRemembered:
                self._ending = False
                if self._cancelled or self._handing_over or self.journal.writer.lost.is_set():
                    self._stop()
            outcome = await self._outcome(self._turn.remember())
        await self._end(outcome)

    async def _outcome(self, work: Coroutine[Any, Any, pb.RunFinished]) -> pb.RunFinished:
        """How the run ends, whatever it ends by."""
        try:
            async with asyncio.timeout_at(self._until) as limit:
                return await work
        except asyncio.CancelledError as cancelled:
            self._accept(cancelled)
            return self._failed(pb.RUN_STATE_CANCELLED, None)
        except InDoubt as doubt:
            return await self._wait_in_doubt(doubt)
        except Fenced:
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            error: errors.PeregrineError = _time_is_over()
        except errors.DeadlineExceeded as raised:
            # A call gets what is left of the run's time less a margin, so it notices first.
            left = context.deadline_remaining()
            error = raised if left is None or left > 2 * DEADLINE_MARGIN else _time_is_over()
        except errors.PeregrineError as raised:
            error = raised
        except Exception:
            self._metrics.failures.inc()
            log.exception("run_failed")
            error = errors.Internal("the run failed inside", reason="INTERNAL_ERROR")
        return self._failed(pb.RUN_STATE_FAILED, error)

    def _accept(self, cancelled: asyncio.CancelledError) -> None:
        """Goes on after a cancellation that `cancel` caused; raises any other again."""
        task = asyncio.current_task()
        if not self._cancelled or self.journal.writer.lost.is_set() or task is None:
            raise cancelled
        task.uncancel()

    def _failed(self, state: "pb.RunState", error: errors.PeregrineError | None) -> pb.RunFinished:
        steps = self._replay.steps
        return pb.RunFinished(
            state=state,
            error=to_proto(error) if error is not None else None,
            usage=self._replay.usage,
            steps=steps[-1].number if steps else 0,
            degradations=self._replay.degradations,
        )

    async def _wait_in_doubt(self, doubt: InDoubt) -> pb.RunFinished:
        """Waits, visibly and under the lease, until somebody cancels the run."""
        self.journal.emit(
            run_waiting=pb.RunWaiting(
                state=pb.RUN_STATE_IN_DOUBT, call_id=doubt.call.call_id, tool=doubt.call.tool
            )
        )
        await self._store.set_state(self.facts.identity, self.facts.run_id, pb.RUN_STATE_IN_DOUBT)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as cancelled:
            self._accept(cancelled)
        return self._failed(pb.RUN_STATE_CANCELLED, None)

    async def _end(self, outcome: pb.RunFinished, *, ready: Ready | None = None) -> None:
        """Raises what `ready` raises; then the run has not ended."""
        self._ending = True
        outcome.waterfall.CopyFrom(self._recorder.finish(time.monotonic()))

        # The deadline of the run has no say in writing down how it ended.
        with context.bind(detach=True):
            also = self._store.ending(self.facts.identity, outcome)
            await self.journal.finish(outcome, also=also, ready=ready)
        # Whoever waits for the end is told it at this moment, and goes first.
        await asyncio.sleep(_AFTERWARDS_SECONDS)
        self._metrics.run_finished(self._plan.agent, outcome)
        log.info(
            "run_finished",
            agent=self._plan.agent,
            state=pb.RunState.Name(outcome.state),
            reason=outcome.error.reason,
            steps=outcome.steps,
            wall_ms=round(outcome.waterfall.wall_ms, 1),
        )

    async def _release(self) -> None:
        """Gives the run away; where that fails, its lease runs out."""
        try:
            async with asyncio.timeout(_HANDOVER_SECONDS):
                await self.journal.writer.release()
        except (TimeoutError, errors.PeregrineError) as error:
            log.warning("handover_failed", error=type(error).__name__)
        else:
            log.info("run_handed_over")


def _time_is_over() -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded("the run's time is over", reason="RUN_DEADLINE_EXCEEDED")
