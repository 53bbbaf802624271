"""The runs this process owns: accepted, taken over, cancelled, handed over, ended.

Each has one task, owned here. A run leaves this process in one of four ways: it ends; its lease
is lost (the task stops and writes nothing more); it is handed over at a drain; or the process
dies, and another one claims it when the lease has run out.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import context, errors
from peregrine.kit.channel import DEADLINE_MARGIN
from peregrine.kit.eventlog import Claim, EventLog, Fenced, Writer
from peregrine.kit.postgres import Connection, Database
from peregrine.orchestrator import plan as plans
from peregrine.orchestrator import replay as replays
from peregrine.orchestrator.agents import Agents
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.store import NewRun, Store, StoredRun
from peregrine.orchestrator.toolcalls import InDoubt
from peregrine.orchestrator.turn import Facts, Turn, begin_request
from peregrine.orchestrator.upstream import Upstream, to_proto
from peregrine.orchestrator.waterfall import Recorder, recorded

_SCAN_SECONDS = 1.0
_CANCEL_POLL_SECONDS = 0.5
_CLAIMS_AT_ONCE = 32
_HANDOVER_SECONDS = 5.0
# Runs that are being started at once: a burst waits here rather than in every queue behind.
_STARTS_AT_ONCE = 32

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class LiveRun:
    """A run at work in this process. Flags say why its task was cancelled, when it was."""

    facts: Facts
    plan: plans.Plan
    journal: Journal
    replay: replays.Replay
    recorder: Recorder
    remaining: float
    task: asyncio.Task[None]
    cancelled: bool = False
    handing_over: bool = False
    # The terminal event is being written: nothing stops the task any more.
    ending: bool = False


class Runs:
    """Owns the tasks of the runs; `start_background` and `drain` belong to whoever wires it."""

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        event_log: EventLog,
        agents: Agents,
        upstream: Upstream,
        metrics: Metrics,
        max_live: int,
        drain_seconds: float,
    ) -> None:
        self._database = database
        self._store = store
        self._log = event_log
        self._agents = agents
        self._upstream = upstream
        self._metrics = metrics
        self._max_live = max_live
        self._drain_seconds = drain_seconds
        self._live: dict[uuid.UUID, LiveRun] = {}
        self._starting = 0
        self._start_turns = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._adopting: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self.draining = False

    def start_background(self) -> None:
        self._background = [
            asyncio.create_task(self._forever("take_over", self._claim)),
            asyncio.create_task(self._forever("watch_cancels", self._watch_cancels)),
        ]

    # ---- starting ----

    async def start(self, given: pb.RunInput, *, accepted: float) -> pb.Run:
        """Accepts a run: when this returns it is durable, and at work here.

        Args:
          given: checked by the caller.
          accepted: the reading of the monotonic clock when the call arrived.

        Raises:
          PeregrineError: as the contract of StartRun says; then there is no run.
        """
        if self.draining:
            raise errors.Unavailable(
                "this orchestrator is going away", reason="DRAINING", retry_after=0.1
            )
        if len(self._live) + self._starting >= self._max_live:
            raise errors.ResourceExhausted(
                "too many runs are at work here", reason="OVERLOADED", retry_after=1.0
            )
        self._starting += 1
        try:
            async with self._start_turns:
                return await self._start(given, accepted)
        finally:
            self._starting -= 1

    async def _start(self, given: pb.RunInput, accepted: float) -> pb.Run:
        admitted = time.monotonic()
        identity = context.identity()
        agent = await self._agents.get(identity.tenant, given.agent)
        plan = plans.resolve(agent.name, agent.spec, given)
        run_id = uuid.uuid4()
        new = NewRun(
            run_id=run_id,
            identity=identity,
            agent=agent,
            conversation_id=uuid.UUID(given.conversation_id or str(uuid.uuid4())),
            new_conversation=not given.conversation_id,
            request_digest=hashlib.sha256(given.SerializeToString(deterministic=True)).digest(),
            input=given,
            max_duration=plan.max_duration,
        )
        facts = Facts(
            run_id=run_id,
            identity=identity,
            agent_version=agent.version,
            conversation_id=new.conversation_id,
            new_conversation=new.new_conversation,
            message=given.message,
            turn_id=given.request_id or str(run_id),
        )
        recorder = Recorder(accepted)
        recorder.add(pb.SPAN_KIND_QUEUE, "start", 0, accepted, admitted)
        # The turn begins in memory while the run's row is written: both can be repeated.
        loading = asyncio.create_task(self._begin_turn(facts, plan, recorder))
        try:
            writing = time.monotonic()
            earlier, writer = await self._insert(new)
            recorder.add(pb.SPAN_KIND_PERSIST, "run", 0, writing, time.monotonic())
            if writer is None:
                return earlier
            try:
                loaded = await loading
            except BaseException:
                await self._take_back(run_id, writer)
                raise
        finally:
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.PeregrineError):
                await loading
        live = self._work(
            facts, plan, Journal(writer), replays.Replay(), recorder, plan.max_duration, loaded
        )
        live.journal.emit(
            run_started=pb.RunStarted(
                run_id=str(run_id),
                agent=agent.name,
                agent_version=agent.version,
                conversation_id=str(facts.conversation_id),
            )
        )
        return earlier

    async def _begin_turn(
        self, facts: Facts, plan: plans.Plan, recorder: Recorder
    ) -> memory.BeginTurnResponse:
        begun = time.monotonic()
        with context.bind(run_id=str(facts.run_id)):
            loaded = await self._upstream.begin_turn(begin_request(facts, plan))
        recorder.add(pb.SPAN_KIND_CONTEXT, "memory", 0, begun, time.monotonic())
        return loaded

    async def _insert(self, new: NewRun) -> tuple[pb.Run, Writer | None]:
        """Writes a run and its log together; no writer when the request id is known."""
        identity = new.identity
        async with self._database.transaction(identity.tenant, user=identity.user) as conn:
            run, inserted = await self._store.insert_run(conn, new)
            if not inserted:
                return run, None
            writer = await self._log.create(conn, tenant=identity.tenant, log_id=new.run_id)
        return run, writer

    async def _take_back(self, run_id: uuid.UUID, writer: Writer) -> None:
        """Removes a run that was never acknowledged; its request id is free again."""

        async def remove(conn: Connection) -> None:
            await self._store.remove_run(conn, run_id)

        outcome = pb.RunFinished(state=pb.RUN_STATE_CANCELLED)
        with contextlib.suppress(errors.PeregrineError):
            # Where this fails, a take-over finds the run and ends it.
            await asyncio.shield(Journal(writer).finish(outcome, also=remove))

    # ---- working ----

    def _work(
        self,
        facts: Facts,
        plan: plans.Plan,
        journal: Journal,
        replay: replays.Replay,
        recorder: Recorder,
        remaining: float,
        loaded: memory.BeginTurnResponse | None,
    ) -> LiveRun:
        turn = Turn(
            facts=facts,
            plan=plan,
            replay=replay,
            journal=journal,
            upstream=self._upstream,
            recorder=recorder,
            metrics=self._metrics,
        )
        with context.bind(
            identity=facts.identity,
            timeout=remaining,
            run_id=str(facts.run_id),
            conversation_id=str(facts.conversation_id),
            detach=True,
        ):
            # The task inherits this context: the caller's deadline is not the run's.
            ready = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._drive(ready, turn, loaded))
        live = LiveRun(facts, plan, journal, replay, recorder, remaining, task)
        ready.set_result(live)
        self._live[facts.run_id] = live
        task.add_done_callback(lambda _: self._live.pop(facts.run_id, None))
        return live

    async def _watch_lease(self, live: LiveRun) -> None:
        """Stops the work of a run that this process no longer owns."""
        await live.journal.writer.lost.wait()
        if not live.ending:
            live.task.cancel()

    async def _drive(
        self,
        ready: "asyncio.Future[LiveRun]",
        turn: Turn,
        loaded: memory.BeginTurnResponse | None,
    ) -> None:
        """The life of one run in this process; the broad catch at its top."""
        live = await ready
        writer = live.journal.writer
        lease = asyncio.create_task(self._watch_lease(live))
        try:
            with self._metrics.at_work(live.plan.agent, live.journal):
                outcome = await self._outcome(live, turn, loaded)
                await self._end(live, outcome)
        except asyncio.CancelledError:
            if live.handing_over:
                await self._hand_over(live)
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
            # Nobody knows what is wrong with it here: somebody else may do better.
            self._metrics.failures.inc()
            log.exception("run_broke")
            await self._hand_over(live)
        finally:
            lease.cancel()

    async def _outcome(
        self, live: LiveRun, turn: Turn, loaded: memory.BeginTurnResponse | None
    ) -> pb.RunFinished:
        """How the run ends, whatever it ends by."""
        try:
            async with asyncio.timeout(max(live.remaining, 0.0)) as limit:
                return await turn.run(loaded)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not live.cancelled or live.journal.writer.lost.is_set() or task is None:
                raise
            task.uncancel()
            return self._failed(live, pb.RUN_STATE_CANCELLED, None)
        except InDoubt as doubt:
            return await self._wait_in_doubt(live, doubt)
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
        return self._failed(live, pb.RUN_STATE_FAILED, error)

    def _failed(
        self, live: LiveRun, state: "pb.RunState", error: errors.PeregrineError | None
    ) -> pb.RunFinished:
        steps = live.replay.steps
        return pb.RunFinished(
            state=state,
            error=to_proto(error) if error is not None else None,
            usage=live.replay.usage,
            steps=steps[-1].number if steps else 0,
            degradations=live.replay.degradations,
        )

    async def _wait_in_doubt(self, live: LiveRun, doubt: InDoubt) -> pb.RunFinished:
        """Waits, visibly and under the lease, until somebody cancels the run."""
        live.journal.emit(
            run_waiting=pb.RunWaiting(
                state=pb.RUN_STATE_IN_DOUBT, call_id=doubt.call.call_id, tool=doubt.call.tool
            )
        )
        await self._store.set_state(live.facts.identity, live.facts.run_id, pb.RUN_STATE_IN_DOUBT)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not live.cancelled or live.journal.writer.lost.is_set() or task is None:
                raise
            task.uncancel()
        return self._failed(live, pb.RUN_STATE_CANCELLED, None)

    async def _end(self, live: LiveRun, outcome: pb.RunFinished) -> None:
        live.ending = True
        outcome.waterfall.CopyFrom(live.recorder.finish(time.monotonic()))
        run_id = live.facts.run_id
        position = live.journal.writer.next_sequence

        async def write(conn: Connection) -> None:
            await self._store.finish_run(conn, run_id, outcome, position)

        # The deadline of the run has no say in writing down how it ended.
        with context.bind(detach=True):
            await live.journal.finish(outcome, also=write)
        self._metrics.run_finished(live.plan.agent, outcome)
        log.info(
            "run_finished",
            agent=live.plan.agent,
            state=pb.RunState.Name(outcome.state),
            reason=outcome.error.reason,
            steps=outcome.steps,
            wall_ms=round(outcome.waterfall.wall_ms, 1),
        )

    # ---- cancelling ----

    async def cancel(self, run_id: uuid.UUID) -> pb.Run:
        """Asks a run to end, here or wherever it is.

        Raises:
          NotFound: RUN_NOT_FOUND.
        """
        run = await self._store.request_cancel(context.identity(), run_id)
        self._cancel(run_id)
        return run

    def _cancel(self, run_id: uuid.UUID) -> None:
        live = self._live.get(run_id)
        if live is not None and not live.cancelled and not live.ending:
            live.cancelled = True
            live.task.cancel()

    async def _watch_cancels(self) -> None:
        """Sees the requests that reached another orchestrator."""
        await asyncio.sleep(_CANCEL_POLL_SECONDS)
        if self._live:
            for run_id in await self._store.cancel_requested(list(self._live)):
                self._cancel(run_id)

    # ---- taking over ----

    async def _claim(self) -> None:
        """Takes runs whose owner is gone; at once when one hands over, else every second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SCAN_SECONDS):
                await self._log.released.wait()
        self._log.released.clear()
        free = self._max_live - len(self._live) - len(self._adopting)
        if self.draining or free <= 0:
            return
        for claim in await self._log.claim_expired(min(free, _CLAIMS_AT_ONCE)):
            task = asyncio.create_task(self._adopt(claim))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    async def _adopt(self, claim: Claim) -> None:
        try:
            stored = await self._store.take_over(claim.log_id)
            recovered = await self._log.recover(claim)
            if stored is None:
                # Its row is gone, so nobody was ever told of it.
                outcome = pb.RunFinished(state=pb.RUN_STATE_CANCELLED)
                await Journal(recovered.writer).finish(outcome, also=None)
                return
            events = [pb.RunEvent.FromString(entry.payload) for entry in recovered.entries]
            self._resume(stored, claim, recovered.writer, events, truncated=recovered.truncated)
        except errors.PeregrineError as error:
            # The lease runs out again, and somebody tries again.
            log.warning("take_over_failed", run_id=str(claim.log_id), reason=error.reason)
        except Exception:
            self._metrics.failures.inc()
            log.exception("take_over_broke", run_id=str(claim.log_id))

    def _resume(
        self,
        stored: StoredRun,
        claim: Claim,
        writer: Writer,
        events: list[pb.RunEvent],
        *,
        truncated: bool,
    ) -> None:
        plan = plans.resolve(stored.agent, stored.spec, stored.input)
        replay = replays.fold(events)
        journal = Journal(writer)
        now = time.monotonic()
        accepted = now - stored.age
        recorder = Recorder(accepted, recorded(events, stored.age, time.time()))
        facts = Facts(
            run_id=stored.run_id,
            identity=stored.identity,
            agent_version=stored.agent_version,
            conversation_id=stored.conversation_id,
            new_conversation=stored.new_conversation,
            message=stored.input.message,
            turn_id=stored.input.request_id or str(stored.run_id),
        )
        if truncated:
            journal.emit(log_truncated=pb.LogTruncated(to=replay.last_sequence))
        reason = (
            pb.TAKEOVER_REASON_HANDED_OVER if claim.released else pb.TAKEOVER_REASON_LEASE_EXPIRED
        )
        journal.emit(run_taken_over=pb.RunTakenOver(reason=reason))
        step = replay.unfinished
        if step is not None:
            journal.emit(
                generation_restarted=pb.GenerationRestarted(
                    step=step.number, discard_from=step.sequence, reason="OWNER_LOST"
                )
            )
            step.restart()
        self._metrics.takeovers.inc()
        live = self._work(facts, plan, journal, replay, recorder, stored.remaining, None)
        if stored.cancel_requested:
            self._cancel(live.facts.run_id)

    # ---- leaving ----

    async def drain(self) -> None:
        """Takes nothing new, lets runs end for a while, hands over the rest."""
        self.draining = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, *self._adopting, return_exceptions=True)
        tasks = [live.task for live in self._live.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._drain_seconds)
        leaving = [live for live in self._live.values() if not live.ending]
        for live in leaving:
            live.handing_over = True
            live.task.cancel()
        tasks = [live.task for live in self._live.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_HANDOVER_SECONDS)

    async def _hand_over(self, live: LiveRun) -> None:
        """Gives the run away; where that fails, its lease runs out."""
        try:
            async with asyncio.timeout(_HANDOVER_SECONDS):
                await live.journal.writer.release()
        except (TimeoutError, errors.PeregrineError) as error:
            log.warning("handover_failed", error=type(error).__name__)
        else:
            log.info("run_handed_over")

    async def _forever(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except errors.PeregrineError as error:
                log.warning("background_failed", work=name, reason=error.reason)
                await asyncio.sleep(_CANCEL_POLL_SECONDS)
            except Exception:
                self._metrics.failures.inc()
                log.exception("background_broke", work=name)
                await asyncio.sleep(_SCAN_SECONDS)


def _time_is_over() -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded("the run's time is over", reason="RUN_DEADLINE_EXCEEDED")
