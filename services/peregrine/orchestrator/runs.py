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

import structlog

from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit import context, errors
from peregrine.kit.context import Identity
from peregrine.kit.eventlog import Claim, EventLog, Recovered, Writer
from peregrine.orchestrator import plan as plans
from peregrine.orchestrator import replay as replays
from peregrine.orchestrator.agents import Agents
from peregrine.orchestrator.facts import Facts, at_work, begin_request
from peregrine.orchestrator.foresight import Foresight
from peregrine.orchestrator.journal import Journal
from peregrine.orchestrator.live import LiveRun
from peregrine.orchestrator.metrics import Metrics
from peregrine.orchestrator.store import NewRun, Store, StoredRun
from peregrine.orchestrator.upstream import ModelCall, Upstream
from peregrine.orchestrator.waterfall import Recorder, recorded

_SCAN_SECONDS = 1.0
_CANCEL_POLL_SECONDS = 0.5
_CLAIMS_AT_ONCE = 32
_HANDOVER_SECONDS = 5.0
# Runs that are being started at once: a burst waits here rather than in every queue behind.
_STARTS_AT_ONCE = 32
# By how much a model call that was made ahead is ahead of what the database is given to do: shorter
# than any model takes, and about what the call takes to the provider.
_CALL_FIRST_SECONDS = 0.002

log = structlog.get_logger(__name__)


class Runs:
    """Owns the tasks of the runs; `start_background` and `drain` belong to whoever wires it.

    `prove` makes what shows other services for whom a run is.
    """

    def __init__(
        self,
        *,
        store: Store,
        event_log: EventLog,
        agents: Agents,
        upstream: Upstream,
        metrics: Metrics,
        prove: Callable[[context.Identity], context.Proof | None],
        max_live: int,
        drain_seconds: float,
    ) -> None:
        self._store = store
        self._log = event_log
        self._agents = agents
        self._upstream = upstream
        self._foresight = Foresight(upstream)
        self._metrics = metrics
        self._prove = prove
        self._max_live = max_live
        self._drain_seconds = drain_seconds
        self._live: dict[uuid.UUID, LiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
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
        facts = Facts(
            run_id=run_id,
            identity=identity,
            agent_version=agent.version,
            conversation_id=uuid.UUID(given.conversation_id or str(uuid.uuid4())),
            new_conversation=not given.conversation_id,
            message=given.message,
            turn_id=given.request_id or str(run_id),
        )
        recorder = Recorder(accepted)
        recorder.add(pb.SPAN_KIND_QUEUE, "start", 0, accepted, admitted)
        proof = self._prove(identity)
        with at_work(facts, proof=proof, remaining=plan.max_duration):
            ahead = self._foresight.call(facts, plan)
        try:
            if ahead is not None:
                # It is on its way before the run is written down.
                await asyncio.sleep(_CALL_FIRST_SECONDS)
            new = NewRun(
                run_id=run_id,
                identity=identity,
                agent=agent,
                conversation_id=facts.conversation_id,
                new_conversation=facts.new_conversation,
                request_digest=hashlib.sha256(given.SerializeToString(deterministic=True)).digest(),
                input=given,
                max_duration=plan.max_duration,
            )
            earlier, writer, loaded = await self._write_down(
                new, facts, plan, recorder, hurry=ahead is None
            )
        except BaseException as error:
            if ahead is not None:
                ahead.cancel()
            if isinstance(error, errors.Unavailable):
                self._foresight.forget()
            raise
        if writer is None:
            if ahead is not None:
                ahead.cancel()
            return earlier
        self._foresight.learn(identity, loaded)
        journal, standing = Journal(writer), replays.Replay()
        self._work(
            facts, plan, journal, standing, recorder, plan.max_duration, proof, loaded, ahead
        )
        return earlier

    async def _write_down(
        self, new: NewRun, facts: Facts, plan: plans.Plan, recorder: Recorder, *, hurry: bool
    ) -> tuple[pb.Run, Writer | None, memory.BeginTurnResponse]:
        """Writes the run's row and begins the turn in memory: both can be repeated.

        No writer when the run is there already.

        Args:
          hurry: both at once, as the model waits for them. It does not where it was asked ahead,
            and then its call shall have the machine.
        """
        loading = None
        if hurry:
            loading = asyncio.create_task(self._begin_turn(facts, plan, recorder))
        try:
            writing = time.monotonic()
            run, writer = await self._insert(new)
            recorder.add(pb.SPAN_KIND_PERSIST, "run", 0, writing, time.monotonic())
            if writer is None:
                return run, None, memory.BeginTurnResponse()
            try:
                loaded = await (loading or self._begin_turn(facts, plan, recorder))
            except BaseException:
                await self._take_back(facts.identity, writer)
                raise
            return run, writer, loaded
        finally:
            if loading is not None:
                loading.cancel()
                with contextlib.suppress(asyncio.CancelledError, errors.PeregrineError):
                    await loading

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
        asked = time.monotonic()
        run, inserted = await self._store.start_run(new, self._log.lease())
        if not inserted:
            return run, None
        tenant = new.identity.tenant
        return run, self._log.created(tenant=tenant, log_id=new.run_id, asked=asked)

    async def _take_back(self, identity: Identity, writer: Writer) -> None:
        """Removes a run that was never acknowledged; its request id is free again."""
        outcome = pb.RunFinished(state=pb.RUN_STATE_CANCELLED)
        with contextlib.suppress(errors.PeregrineError):
            # Where this fails, a take-over finds the run and ends it.
            await asyncio.shield(
                Journal(writer).finish(outcome, also=self._store.removal(identity))
            )

    def _work(
        self,
        facts: Facts,
        plan: plans.Plan,
        journal: Journal,
        replay: replays.Replay,
        recorder: Recorder,
        remaining: float,
        proof: context.Proof | None,
        loaded: memory.BeginTurnResponse | None,
        ahead: ModelCall | None,
    ) -> LiveRun:
        live = LiveRun(
            facts=facts,
            plan=plan,
            replay=replay,
            journal=journal,
            recorder=recorder,
            remaining=remaining,
            store=self._store,
            upstream=self._upstream,
            metrics=self._metrics,
            proof=proof,
            ahead=ahead,
        )
        task = live.begin(loaded)
        self._live[facts.run_id] = live
        self._tasks.add(task)

        def left(_: asyncio.Task[None]) -> None:
            self._live.pop(facts.run_id, None)
            self._tasks.discard(task)
            if ahead is not None:
                ahead.cancel()

        task.add_done_callback(left)
        return live

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
        if live is not None:
            live.cancel()

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
        recovered: Recovered | None = None
        try:
            stored = await self._store.take_over(claim.log_id)
            recovered = await self._log.recover(claim)
            if stored is None:
                # Its row is gone, so nobody was ever told of it.
                outcome = pb.RunFinished(state=pb.RUN_STATE_CANCELLED)
                await Journal(recovered.writer).finish(outcome, also=None)
                return
            self._resume(stored, claim, recovered)
        except errors.PeregrineError as error:
            # The lease runs out again, and somebody tries again.
            log.warning("take_over_failed", run_id=str(claim.log_id), reason=error.reason)
        except Exception:
            self._metrics.failures.inc()
            log.exception("take_over_broke", run_id=str(claim.log_id))
            if recovered is not None:
                recovered.writer.discard()

    def _resume(self, stored: StoredRun, claim: Claim, recovered: Recovered) -> None:
        events = [pb.RunEvent.FromString(entry.payload) for entry in recovered.entries]
        plan = plans.resolve(stored.agent, stored.spec, stored.input)
        replay = replays.fold(events)
        journal = Journal(recovered.writer)
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
        if recovered.truncated:
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
        proof = self._prove(facts.identity)
        live = self._work(
            facts, plan, journal, replay, recorder, stored.remaining, proof, None, None
        )
        if stored.cancel_requested:
            self._cancel(live.facts.run_id)

    # ---- leaving ----

    async def drain(self) -> None:
        """Takes nothing new, lets runs end for a while, hands over the rest."""
        self.draining = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, *self._adopting, return_exceptions=True)
        await self._settled(self._drain_seconds)
        for live in self._live.values():
            live.hand_over()
        await self._settled(_HANDOVER_SECONDS)

    async def _settled(self, timeout: float) -> None:
        """Waits until no run is at work here, at most `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

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
