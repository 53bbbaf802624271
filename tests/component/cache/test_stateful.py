"""Random lives of the cache against an oracle that caches nothing.

The truth is a value per place (tenant, user or all of the tenant, namespace, key). The machine
changes it, reads it through two replicas and their near caches, computes and stores what is
missing, also slowly; makes things untrue by key, tag and namespace; moves the clock, changes
policies, cuts the feed and the stores, and restarts them. What is read must have been true: at some
moment within its time to live (and stale window, when it says so), and after the last invalidation
that covers it and that the replica must know of. No value ever shows at another place.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from peregrine.api.cache.v1 import cache_pb2
from peregrine.client import CacheClient
from peregrine.kit import postgres
from peregrine.kit.context import Identity
from peregrine.local import migrations, servers
from peregrine.local.processes import Children
from peregrine.local.servers import PostgresServer
from tests.component.cache.conftest import (
    ADA,
    BOB,
    OTHER_ADA,
    TENANT,
    USER,
    Cache,
    Clock,
    key,
    replica,
)
from tests.support.eventually import eventually
from tests.support.identity import signer

Place = tuple[str, str, str, str]

WHO = st.sampled_from([ADA, BOB, OTHER_ADA])
SCOPES = st.sampled_from([USER, TENANT])
NAMESPACES = st.sampled_from(["one", "two"])
NAMES = st.just("a")
TAGS = {"one": ["red", "round"], "two": ["blue"]}
TARGETS = st.sampled_from(["key", "tag", "namespace"])
REPLICAS = st.sampled_from([0, 1])
TTLS = st.sampled_from([2.0, 30.0, 300.0])


@dataclass
class Truth:
    """What a place's value was, from when on, and since when older ones may not be shown."""

    values: list[tuple[float, bytes]] = field(default_factory=list)
    not_before: int = 0  # the index of the oldest value that may still be shown


@dataclass
class Pending:
    """A computation that has read the truth and not stored it yet."""

    replica: int
    who: Identity
    key: cache_pb2.Key
    value: bytes
    read_at: float
    epoch: int
    token: int
    tags: list[str]
    ttl: float


class World:
    """The servers of all lives; each life has a database and two replicas of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        self.loop = loop
        self.directory = directory
        self.lives = self.hits = self.near_hits = 0
        self.postgres: PostgresServer

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)


class Life(RuleBasedStateMachine):
    world: World

    @initialize()
    def begin(self) -> None:
        self.truth: dict[Place, Truth] = {}
        self.pending: list[Pending] = []
        self.number = 0
        self.cut: set[str] = set()
        self.world.run(self._begin())

    async def _begin(self) -> None:
        world = self.world
        world.lives += 1
        self.name = f"life_{world.lives}"
        self.stack = AsyncExitStack()
        await world.postgres.create_database(self.name, template="lives")
        self.stack.push_async_callback(world.postgres.drop_database, self.name)
        children = await self.stack.enter_async_context(Children(grace=5.0))
        directory = world.directory / self.name
        self.redis = await self.stack.enter_async_context(
            servers.redis(children, directory=directory, log_path=world.directory / "redis.log")
        )
        self.clock = Clock()
        dsn = world.postgres.dsn(self.name)
        self.replicas: list[Cache] = [
            await replica(self.stack, dsn, self.redis, self.clock) for _ in range(2)
        ]
        self.hits = self.near_hits = 0
        self.clients = [
            await self.stack.enter_async_context(
                CacheClient(each.target, near_bytes=2**20, entry_timeout=2.0)
            )
            for each in self.replicas
        ]

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            self.world.hits += self.hits
            self.world.near_hits += self.near_hits
            self.world.run(self.stack.aclose())

    def place(self, who: Identity, scope: Any, namespace: str, name: str) -> Place:
        return who.tenant, who.user if scope == USER else "", namespace, name

    def truth_of(self, place: Place) -> Truth:
        if place not in self.truth:
            self.truth[place] = Truth([(0.0, self.fresh(place))])
        return self.truth[place]

    def fresh(self, place: Place) -> bytes:
        self.number += 1
        return f"{'/'.join(place)} {self.number}".encode()

    @rule(who=WHO, scope=SCOPES, namespace=NAMESPACES, name=NAMES)
    def the_truth_changes(self, who: Identity, scope: Any, namespace: str, name: str) -> None:
        place = self.place(who, scope, namespace, name)
        self.truth_of(place).values.append((self.clock(), self.fresh(place)))

    @rule(at=REPLICAS, who=WHO, scope=SCOPES, namespace=NAMESPACES, name=NAMES, stale=st.booleans())
    def somebody_reads(
        self, at: int, who: Identity, scope: Any, namespace: str, name: str, stale: bool
    ) -> None:
        request = cache_pb2.GetRequest(key=key(name, scope, namespace), allow_stale=stale)
        answer = self.world.run(self.replicas[at].call("Get", request, who))
        self.judge(self.place(who, scope, namespace, name), answer, stale)

    @rule(at=REPLICAS, who=WHO, scope=SCOPES, namespace=NAMESPACES, name=NAMES)
    def somebody_reads_near_by(
        self, at: int, who: Identity, scope: Any, namespace: str, name: str
    ) -> None:
        found = self.world.run(self.near(at, who, scope, namespace, name))
        if found is not None:
            self.near_hits += found.tier == cache_pb2.TIER_NEAR
            self.judge_value(self.place(who, scope, namespace, name), found.value)

    async def near(self, at: int, who: Identity, scope: Any, namespace: str, name: str) -> Any:
        client = self.clients[at]
        with signer().acting_as(who, {"admin"}):
            one = client.key(namespace, name.encode(), shared=scope == TENANT)
            return await client.get(one)

    @rule(
        at=REPLICAS,
        who=WHO,
        scope=SCOPES,
        namespace=NAMESPACES,
        name=NAMES,
        ttl=TTLS,
        leased=st.booleans(),
    )
    def somebody_begins_to_compute(
        self,
        at: int,
        who: Identity,
        scope: Any,
        namespace: str,
        name: str,
        ttl: float,
        leased: bool,
    ) -> None:
        one = key(name, scope, namespace)
        place = self.place(who, scope, namespace, name)
        if leased:
            answer = self.world.run(self.replicas[at].lease(one, who, timeout=0.6))
            if not answer.HasField("lease"):
                self.judge(place, answer, False)
                return
            epoch, token = answer.lease.epoch, answer.lease.fencing_token
        else:
            answer = self.world.run(self.replicas[at].get(one, who))
            epoch, token = answer.epoch, 0
        _, value = self.truth_of(place).values[-1]
        self.pending.append(
            Pending(at, who, one, value, self.clock(), epoch, token, TAGS[namespace], ttl)
        )

    @rule(
        at=REPLICAS,
        who=WHO,
        scope=SCOPES,
        namespace=NAMESPACES,
        ttl=TTLS,
    )
    def somebody_computes_and_everybody_reads(
        self, at: int, who: Identity, scope: Any, namespace: str, ttl: float
    ) -> None:
        self.somebody_begins_to_compute(at, who, scope, namespace, "a", ttl, False)
        self.it_is_stored(True)
        self.everybody_reads(namespace)

    @rule(namespace=NAMESPACES)
    def everybody_reads(self, namespace: str) -> None:
        for who in (ADA, BOB, OTHER_ADA):
            for scope in (USER, TENANT):
                for at in (0, 1):
                    self.somebody_reads(at, who, scope, namespace, "a", False)
                    self.somebody_reads_near_by(at, who, scope, namespace, "a")

    @rule(last=st.booleans())
    def it_is_stored(self, last: bool) -> None:
        if not self.pending:
            return
        done = self.pending.pop(-1 if last else 0)
        more: dict[str, Any] = {"tags": done.tags, "epoch": done.epoch}
        if done.token:
            more["fencing_token"] = done.token
        try:
            self.world.run(
                self.replicas[done.replica].set(
                    done.key,
                    done.value,
                    done.who,
                    ttl=done.ttl,
                    fetch_time={
                        "seconds": int(done.read_at),
                        "nanos": int(done.read_at % 1 * 1e9),
                    },
                    **more,
                )
            )
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.ABORTED, error

    @rule(at=REPLICAS, who=WHO, scope=SCOPES, namespace=NAMESPACES, by=TARGETS)
    def somebody_writes_and_everybody_reads(
        self, at: int, who: Identity, scope: Any, namespace: str, by: str
    ) -> None:
        """The truth changes, and the writer makes untrue what was."""
        place = self.place(who, scope, namespace, "a")
        self.the_truth_changes(who, scope, namespace, "a")

        def in_namespace(each: Place) -> bool:
            return each[0] == who.tenant and each[2] == namespace

        if by == "key":
            one = key("a", scope, namespace)
            self.make_untrue(at, who, lambda each: each == place, key=one)
        elif by == "tag":
            self.make_untrue(at, who, in_namespace, tag=TAGS[namespace][-1])
        else:
            self.make_untrue(at, who, in_namespace, namespace=namespace)
        self.everybody_reads(namespace)

    def make_untrue(
        self, at: int, who: Identity, covers: Callable[[Place], bool], **target: Any
    ) -> None:
        try:
            sequence = self.world.run(self.replicas[at].invalidate(who, **target))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE and "postgres" in self.cut
            return
        self.world.run(self.known(sequence))
        for place, truth in self.truth.items():
            if covers(place):
                truth.not_before = len(truth.values) - 1

    async def known(self, sequence: int) -> None:
        """Waits until both replicas have heard of it (or say that they know nothing)."""
        for each in self.replicas:

            async def heard(each: Cache = each) -> bool:
                answer = await each.get(key("probe"))
                unknown = any(one.what == "feed" for one in answer.degradations)
                return unknown or answer.epoch >= sequence

            await eventually(heard)
        for client in self.clients:
            for _, _, lane in client._lanes:
                feed = lane.feed
                await eventually(
                    lambda feed=feed: (
                        time.monotonic() >= feed.live_until or (feed.sequence or 0) >= sequence
                    )
                )

    @rule(who=WHO, namespace=NAMESPACES, ttl=TTLS, stale=st.sampled_from([0.0, 20.0]))
    def a_policy_is_applied(self, who: Identity, namespace: str, ttl: float, stale: float) -> None:
        try:
            self.world.run(
                self.replicas[0].apply(namespace, who, ttl=ttl, stale_while_revalidate=stale)
            )
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE and "postgres" in self.cut

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0, -5.0]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.clock.ahead += seconds

    @rule(at=REPLICAS, store=st.sampled_from(["redis", "postgres"]))
    def a_replica_is_cut_off(self, at: int, store: str) -> None:
        if not self.cut:
            self.cut = {store}
            getattr(self.replicas[at], f"{store}_proxy").cut()

    @rule()
    def all_is_back(self) -> None:
        if self.cut:
            for each in self.replicas:
                each.redis_proxy.resume()
                each.postgres_proxy.resume()
            self.cut = set()
            self.world.run(self.healed())

    async def healed(self) -> None:
        for each in self.replicas:

            async def back(each: Cache = each) -> bool:
                return not (await each.get(key("probe"))).degradations

            await eventually(back)

    @rule()
    def redis_is_restarted_empty(self) -> None:
        self.world.run(self.replicas[0].empty_redis())

    def judge(self, place: Place, answer: Any, stale_allowed: bool) -> None:
        if not answer.HasField("entry"):
            return
        entry, now = answer.entry, self.clock()
        self.hits += 1
        self.judge_value(place, entry.value)
        assert not entry.stale or stale_allowed
        # The moment at which it was read must be one at which it was true, and not too long ago.
        fetched = entry.fetch_time.ToNanoseconds() / 1e9
        ttl = entry.ttl.ToNanoseconds() / 1e9
        assert now - fetched < ttl + (20.0 if entry.stale else 0.0) + 0.01
        assert ttl <= 330.0

    def judge_value(self, place: Place, found: bytes) -> None:
        truth = self.truth_of(place)
        shown = [number for number, (_, value) in enumerate(truth.values) if value == found]
        assert shown, f"{place} was never {found!r}"
        assert shown[0] >= truth.not_before, f"{place}: {found!r} was made untrue"


def test_no_wrong_value_is_ever_shown(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()

    world = World(loop, tmp_path)
    stack = AsyncExitStack()

    async def open_() -> None:
        children = await stack.enter_async_context(Children(grace=10.0))
        world.postgres = await stack.enter_async_context(
            servers.postgres(
                children,
                directory=tmp_path / "postgres" / "pg",
                log_path=tmp_path / "postgres.log",
                durable=False,
            )
        )
        await world.postgres.create_database("lives")
        await postgres.migrate(world.postgres.dsn("lives"), migrations.COMPONENTS)

    try:
        (tmp_path / "postgres").mkdir()
        loop.run_until_complete(open_())
        Life.world = world
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=12,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
        # It was no life without hits.
        assert world.hits > 20 and world.near_hits > 0
    finally:
        loop.run_until_complete(stack.aclose())
        loop.close()


pytestmark = pytest.mark.timeout(600)
