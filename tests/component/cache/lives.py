"""Random lives of the cache, for hypothesis, against an oracle that caches nothing (`oracle`).

Two replicas, each with a near cache in front, are read and filled by users of two tenants. What is
true changes; it is made untrue by key, tag and namespace; computations read the truth and store it
much later; clocks jump, policies change; each replica may be cut off from one of the stores, a
near cache's connection may stall, Redis comes back empty, replicas and callers are restarted.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import grpc.aio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import Aborted
from peregrine.local import servers
from peregrine.local.processes import Children
from tests.component.cache.conftest import ADA, BOB, OTHER_ADA, TENANT, USER, Cache, Clock, key
from tests.component.cache.oracle import Oracle, Place, Policy, Shown
from tests.component.cache.worlds import Half, World
from tests.support.eventually import eventually
from tests.support.identity import signer

WHO = st.sampled_from([ADA, BOB, OTHER_ADA])
SCOPES = st.sampled_from([USER, TENANT])
NAMESPACES = st.sampled_from(["one", "two"])
TAGS = {"one": ["red", "round"], "two": ["blue"]}
TARGETS = st.sampled_from(["key", "tag", "namespace"])
JUMPS = st.sampled_from([0.1, 1.0, 10.0, 100.0, -5.0])
HOW = st.sampled_from(["", "allow_stale", "computing_failed"])
REPLICAS = st.sampled_from([0, 1])
TTLS = st.sampled_from([2.0, 30.0, 300.0])
SILENT = 1.1


@dataclass
class Pending:
    """A computation that has read the truth and not stored it yet. `born`: on a caller's clock."""

    replica: int
    who: Identity
    scope: Any
    namespace: str
    value: bytes
    read_at: float
    born: float
    epoch: int
    token: int
    limits: dict[str, float]


class Life(RuleBasedStateMachine):
    world: World

    @initialize()
    def begin(self) -> None:
        self.pending: list[Pending] = []
        self.world.run(self._begin())

    async def _begin(self) -> None:
        world = self.world
        world.lives += 1
        name = f"life_{world.lives}"
        self.stack = contextlib.AsyncExitStack()
        await world.postgres.create_database(name, template="lives")
        self.stack.push_async_callback(world.postgres.drop_database, name)
        children = await self.stack.enter_async_context(Children(grace=5.0))
        self.redis = await self.stack.enter_async_context(
            servers.redis(
                children, directory=world.directory / name, log_path=world.directory / "redis.log"
            )
        )
        dsn = world.postgres.dsn(name)
        self.clock = world.times.wall = Clock()
        self.oracle = Oracle()
        self.halves = [Half(dsn, self.redis, self.clock) for _ in range(2)]
        for each in self.halves:
            await each.begin(self.stack)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.world.hits += self.oracle.hits
            self.world.near_hits += self.oracle.near_hits
            self.world.stale_hits += self.oracle.stale_hits
            self.world.run(self.stack.aclose())

    def place(self, who: Identity, scope: Any, namespace: str) -> Place:
        return who.tenant, who.user if scope == USER else "", namespace

    @rule(who=WHO, scope=SCOPES, namespace=NAMESPACES)
    def the_truth_changes(self, who: Identity, scope: Any, namespace: str) -> None:
        self.oracle.changes(self.place(who, scope, namespace))

    @rule(at=REPLICAS, who=WHO, scope=SCOPES, namespace=NAMESPACES, how=HOW)
    def somebody_reads(self, at: int, who: Identity, scope: Any, namespace: str, how: str) -> None:
        self.world.run(self._read(self.halves[at], who, scope, namespace, how))

    async def _read(self, half: Half, who: Identity, scope: Any, namespace: str, how: str) -> None:
        """From the service, and near by."""
        request = cache_pb2.GetRequest(key=key("a", scope, namespace))
        if how:
            setattr(request, how, True)
        place = self.place(who, scope, namespace)
        self.judge(place, await half.cache.call("Get", request, who), how)
        found = await self._near(half, who, scope, namespace)
        if found is not None:
            near = found.tier == cache_pb2.TIER_NEAR
            self.oracle.judge(place, Shown(found.value, stale=found.stale, near=near), "")

    async def _near(self, half: Half, who: Identity, scope: Any, namespace: str) -> Any:
        with signer().acting_as(who, {"admin"}):
            one = half.client.key(namespace, b"a", shared=scope == TENANT)
            return half.client.near(one) if half.stalled else await half.client.get(one)

    @rule(
        at=REPLICAS,
        who=WHO,
        scope=SCOPES,
        namespace=NAMESPACES,
        ttl=TTLS,
        limit=st.sampled_from(["ttl", "first_ttl"]),
        leased=st.booleans(),
    )
    def somebody_begins_to_compute(
        self,
        at: int,
        who: Identity,
        scope: Any,
        namespace: str,
        ttl: float,
        limit: str,
        leased: bool,
    ) -> None:
        one, half = key("a", scope, namespace), self.halves[at]
        place = self.place(who, scope, namespace)
        if leased:
            try:
                answer = self.world.run(half.cache.lease(one, who, timeout=0.6))
            except grpc.aio.AioRpcError as error:
                # It waited for the holder, on a busy machine.
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
                return
            if not answer.HasField("lease"):
                self.judge(place, answer, "")
                return
            epoch, token = answer.lease.epoch, answer.lease.fencing_token
        else:
            epoch, token = self.world.run(half.cache.get(one, who)).epoch, 0
        self.pending.append(
            Pending(
                at,
                who,
                scope,
                namespace,
                self.oracle.now(place),
                self.clock(),
                self.world.times.monotonic(),
                epoch,
                token,
                {limit: ttl},
            )
        )

    @rule(last=st.booleans(), by_client=st.booleans())
    def it_is_stored(self, last: bool, by_client: bool) -> None:
        if self.pending:
            done = self.pending.pop(-1 if last else 0)
            place = self.place(done.who, done.scope, done.namespace)
            self.oracle.filled(place, done.value, done.limits)
            try:
                self.world.run(self._stored(done, by_client))
            except (Aborted, grpc.aio.AioRpcError) as error:
                assert isinstance(error, Aborted) or error.code() is grpc.StatusCode.ABORTED, error

    async def _stored(self, done: Pending, by_client: bool) -> None:
        half, tags = self.halves[done.replica], TAGS[done.namespace]
        if by_client and not half.stalled:
            with signer().acting_as(done.who, {"admin"}):
                one = half.client.key(done.namespace, b"a", shared=done.scope == TENANT)
                limits: Any = done.limits
                await half.client.set(
                    one,
                    done.value,
                    tags=tags,
                    born=done.born,
                    epoch=done.epoch,
                    token=done.token,
                    **limits,
                )
            return
        request = cache_pb2.SetRequest(
            key=key("a", done.scope, done.namespace), value=done.value, tags=tags, epoch=done.epoch
        )
        request.fetch_time.FromNanoseconds(round(done.read_at * 1e9))
        for name, seconds in done.limits.items():
            getattr(request, name).FromMicroseconds(round(seconds * 1e6))
        if done.token:
            request.fencing_token = done.token
        await half.cache.call("Set", request, done.who)

    def computed(self, at: int, who: Identity, scope: Any, namespace: str, ttl: float) -> None:
        self.somebody_begins_to_compute(at, who, scope, namespace, ttl, "ttl", False)
        self.it_is_stored(True, True)

    @rule(at=REPLICAS, who=WHO, scope=SCOPES, namespace=NAMESPACES, how=HOW, seconds=JUMPS)
    def a_value_ages(
        self, at: int, who: Identity, scope: Any, namespace: str, how: str, seconds: float
    ) -> None:
        """It is stored late, and no longer true; then Redis loses it."""
        self.a_policy_is_applied(who, namespace, 2.0, 20.0, 0.0)
        self.somebody_begins_to_compute(at, who, scope, namespace, 30.0, "ttl", False)
        self.the_truth_changes(who, scope, namespace)
        self.the_clock_jumps(seconds)
        self.it_is_stored(True, False)
        self.everybody_reads(namespace, how)
        self.redis_is_restarted_empty()
        for _ in range(2):
            self.everybody_reads(namespace, how)
            self.the_clock_jumps(seconds)

    @rule(namespace=NAMESPACES, how=HOW)
    def everybody_reads(self, namespace: str, how: str) -> None:
        self.world.run(self._all_read(namespace, how))

    async def _all_read(self, namespace: str, how: str) -> None:
        ends = await asyncio.gather(
            *(
                self._read(half, who, scope, namespace, how)
                for who in (ADA, BOB, OTHER_ADA)
                for scope in (USER, TENANT)
                for half in self.halves
            ),
            return_exceptions=True,
        )
        for each in ends:
            if each is not None:
                raise each

    @rule(
        at=REPLICAS,
        who=WHO,
        scope=SCOPES,
        namespace=NAMESPACES,
        by=TARGETS,
        mishap=st.sampled_from(["", "stall", "part", "restart"]),
    )
    def somebody_writes_and_everybody_reads(
        self, at: int, who: Identity, scope: Any, namespace: str, by: str, mishap: str
    ) -> None:
        """The truth changes, and the writer makes untrue what was, also what is being computed."""
        other = self.halves[1 - at]
        self.computed(at, who, scope, namespace, 300.0)
        self.world.run(self._near_by_lives())
        self.everybody_reads(namespace, "")
        self.somebody_begins_to_compute(at, who, scope, namespace, 300.0, "ttl", False)
        if mishap == "stall":
            other.stall()
        elif mishap == "part" and not self.halves[at].cut and not other.cut:
            self.halves[at].part("redis")
            other.part("postgres")
        self.written(at, who, scope, namespace, by)
        self.it_is_stored(True, False)
        if mishap == "restart":
            self.a_replica_is_restarted(1 - at)
        self.everybody_reads(namespace, "")

    async def _near_by_lives(self) -> None:
        """Until near caches serve, where their feed and their replica let them."""
        for half in self.halves:
            if not half.stalled and not half.cut:
                for _, _, lane in half.client._lanes:
                    feed = lane.feed
                    await eventually(
                        lambda feed=feed: (
                            feed.task is None or self.world.times.monotonic() < feed.live_until
                        )
                    )

    def written(self, at: int, who: Identity, scope: Any, namespace: str, by: str) -> None:
        place = self.place(who, scope, namespace)
        self.the_truth_changes(who, scope, namespace)
        target: dict[str, Any] = {"namespace": namespace}
        if by == "key":
            target = {"key": key("a", scope, namespace)}
        elif by == "tag":
            target = {"tag": TAGS[namespace][-1]}
        half = self.halves[at]
        try:
            sequence = self.world.run(half.cache.invalidate(who, **target))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE and half.cut == "postgres", error
            return
        self.world.run(self._known(sequence))
        self.oracle.made_untrue(place, alone=by == "key")

    async def _known(self, sequence: int) -> None:
        """Until all who must know of it do: replicas, or they say that they know nothing; near
        caches, or a second has passed for those whose feed stalls."""
        for half in self.halves:

            async def heard(cache: Cache = half.cache) -> bool:
                answer = await cache.get(key("probe"))
                unknown = any(one.what == "feed" for one in answer.degradations)
                return unknown or answer.epoch >= sequence

            with contextlib.suppress(AssertionError):  # what it serves is judged all the same
                await eventually(heard, timeout=4.0)
        times = self.world.times
        if any(half.stalled for half in self.halves):
            times.ahead += SILENT
        for half in self.halves:
            if not half.stalled:
                await self._heard_near(half, sequence)

    async def _heard_near(self, half: Half, sequence: int) -> None:
        def heard() -> bool:
            now = self.world.times.monotonic()
            feeds = [lane.feed for _, _, lane in half.client._lanes]
            return all(now >= each.live_until or (each.sequence or 0) >= sequence for each in feeds)

        with contextlib.suppress(AssertionError):
            await eventually(heard, timeout=4.0)

    @rule(
        who=WHO,
        namespace=NAMESPACES,
        ttl=TTLS,
        meanwhile=st.sampled_from([None, 0.0, 20.0]),
        on_error=st.sampled_from([0.0, 60.0]),
    )
    def a_policy_is_applied(
        self, who: Identity, namespace: str, ttl: float, meanwhile: float | None, on_error: float
    ) -> None:
        fields = {"ttl": ttl, "stale_if_error": on_error}
        if meanwhile is not None:
            fields["stale_while_revalidate"] = meanwhile
        half = self.halves[0]
        try:
            self.world.run(half.cache.apply(namespace, who, **fields))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE and half.cut == "postgres", error
            return
        self.world.run(self._applied(who, namespace, Policy(ttl, meanwhile, on_error)))

    async def _applied(self, who: Identity, namespace: str, policy: Policy) -> None:
        await self._known((await self.halves[0].cache.get(key("probe"))).epoch)
        self.oracle.policies[who.tenant, namespace] = policy

    @rule(seconds=JUMPS)
    def the_clock_jumps(self, seconds: float) -> None:
        self.clock.ahead += seconds
        self.oracle.passes(seconds)
        self.world.times.ahead += max(seconds, 0.0)

    @rule(at=REPLICAS, store=st.sampled_from(["redis", "postgres"]))
    def a_replica_is_cut_off(self, at: int, store: str) -> None:
        if not self.halves[at].cut:
            self.halves[at].part(store)

    @rule(at=REPLICAS)
    def a_near_caches_feed_stalls(self, at: int) -> None:
        self.halves[at].stall()

    @rule()
    def all_is_back(self) -> None:
        if any(half.cut or half.stalled for half in self.halves):
            self.world.run(self._healed())

    async def _healed(self) -> None:
        for half in self.halves:
            half.mend()
        for half in self.halves:

            async def back(cache: Cache = half.cache) -> bool:
                return not (await cache.get(key("probe"))).degradations

            await eventually(back)

    @rule()
    def redis_is_restarted_empty(self) -> None:
        self.world.run(self.halves[0].cache.empty_redis())

    @rule(at=REPLICAS)
    def a_replica_is_restarted(self, at: int) -> None:
        if not self.halves[at].cut:
            self.world.run(self.halves[at].start())

    @rule(at=REPLICAS)
    def a_caller_is_restarted(self, at: int) -> None:
        self.world.run(self.halves[at].call())

    def judge(self, place: Place, answer: Any, how: str) -> None:
        if answer.HasField("entry"):
            entry = answer.entry
            self.oracle.judge(place, Shown(entry.value, stale=entry.stale, near=False), how)
