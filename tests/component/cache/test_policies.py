"""Policies: in force at once for what is there, everywhere within a second, and after a start."""

from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest

from peregrine.api.cache.v1 import cache_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from tests.component.cache.conftest import ADA, BOB, OTHER_ADA, TENANT, Cache, key, replica
from tests.support.eventually import eventually

OPERATOR = Identity("default", "operator")


async def test_a_shorter_policy_bites_what_is_there_here_at_once_and_elsewhere_soon(
    cache: Cache, other: Cache
) -> None:
    await cache.set(key("a"), b"x", ttl=3600)
    cache.clock.ahead += 100
    assert await other.value(key("a")) == b"x"
    await cache.apply(ttl=60)
    assert await cache.value(key("a")) is None

    async def gone() -> bool:
        return await other.value(key("a")) is None

    await eventually(gone, interval=0.005)
    await cache.apply(ttl=3600)
    assert await cache.value(key("a")) == b"x"


async def test_a_policy_reaches_who_cannot_reach_redis(cache: Cache, other: Cache) -> None:
    other.redis_proxy.cut()
    await other.set(key("a"), b"x", ttl=3600)
    await cache.apply(never=True)

    async def refused() -> bool:
        return (await other.set(key("b"), b"x")).reason == "NEVER_CACHED"

    await eventually(refused, interval=0.005)


async def test_a_namespace_of_class_never_keeps_and_gives_nothing_and_nobody_waits(
    cache: Cache,
) -> None:
    await cache.set(key("a"), b"x")
    await cache.apply(never=True)
    assert await cache.value(key("a")) is None
    assert (await cache.set(key("a"), b"y")).reason == "NEVER_CACHED"
    for _ in range(3):
        assert (await cache.lease(key("a"))).lease.fencing_token == 0
    assert cache.sample("peregrine_cache_sets_total", ns="tool:test", outcome="NEVER_CACHED") == 1


async def test_without_a_time_to_live_the_policys_holds_then_an_hour(cache: Cache) -> None:
    request = cache_pb2.SetRequest(key=key("a"), value=b"x")
    assert 3_240 <= (await cache.call("Set", request)).ttl.ToSeconds() <= 3_960
    await cache.apply(ttl=100)
    assert 90 <= (await cache.call("Set", request)).ttl.ToSeconds() <= 110
    assert 90 <= (await cache.get(key("a"))).entry.ttl.ToSeconds() <= 110
    absent = cache_pb2.SetRequest(key=key("b"), value=b"", absent=True)
    assert (await cache.call("Set", absent)).ttl.ToSeconds() == 5
    assert (await cache.get(key("b"))).entry.absent
    cache.clock.ahead += 5.1
    assert await cache.value(key("b")) is None


async def test_policies_are_a_tenants_own_and_the_operators_for_who_has_none(
    cache: Cache,
) -> None:
    for who in (ADA, BOB, OTHER_ADA):
        await cache.set(key("a"), b"x", who, ttl=3600)
    cache.clock.ahead += 50
    await cache.apply(who=OPERATOR, ttl=20)
    await cache.apply(who=ADA, ttl=1000)
    found = [await cache.value(key("a"), who) for who in (ADA, BOB, OTHER_ADA)]
    assert found == [b"x", b"x", None]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cache.call("GetPolicy", cache_pb2.GetPolicyRequest(namespace="tool:test"), OTHER_ADA)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_policies_survive_and_are_in_force_from_the_start(
    cache: Cache, stack: AsyncExitStack
) -> None:
    await cache.apply(ttl=7, warm_at_start=False)
    later = await replica(stack, cache.dsn, cache.redis, cache.clock)
    answer = await later.call("Set", cache_pb2.SetRequest(key=key("a"), value=b"x"))
    assert 6 <= answer.ttl.ToSeconds() <= 7
    got = await later.call("GetPolicy", cache_pb2.GetPolicyRequest(namespace="tool:test"))
    assert got.policy.ttl.ToSeconds() == 7 and got.policy.version == 1
    assert got.policy.mode == cache_pb2.POLICY_MODE_OBSERVE


async def test_versions_request_ids_and_pages(cache: Cache) -> None:
    first = await cache.apply(ttl=10, request_id="r")
    again = await cache.apply(ttl=10, request_id="r")
    same = await cache.apply(ttl=10)
    assert first.version == again.version == same.version == 1
    assert (await cache.apply(ttl=20, expected_version=1)).version == 2
    for fields, reason in (
        ({"ttl": 30, "expected_version": 1}, "VERSION_STALE"),
        ({"ttl": 30, "request_id": "r"}, "REQUEST_ID_REUSED"),
        ({"ttl": 0}, "POLICY_INVALID"),
        ({"min_ttl": 5, "max_ttl": 2}, "POLICY_INVALID"),
        ({"ttl": 5, "max_ttl": 2}, "POLICY_INVALID"),
        ({"max_stale_fraction": 1.5}, "POLICY_INVALID"),
        ({"namespace": "a/b"}, "POLICY_INVALID"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cache.apply(**fields)  # type: ignore[arg-type]  # a table of fields
        assert from_rpc_error(caught.value).reason == reason
    for number in range(5):
        await cache.apply(f"ns{number}", ttl=10)
    found, token = [], ""
    while True:
        request = cache_pb2.ListPoliciesRequest(page_size=2, page_token=token)
        answer = await cache.call("ListPolicies", request)
        found += [each.namespace for each in answer.policies]
        token = answer.next_page_token
        if not token:
            break
    assert found == [*(f"ns{number}" for number in range(5)), "tool:test"]


async def test_what_looks_secret_is_not_kept_and_counted(cache: Cache) -> None:
    answer = await cache.set(key("a", TENANT), b'{"card": "4111 1111 1111 1111"}')
    assert (answer.stored, answer.reason) == (False, "SENSITIVE")
    assert cache.sample("peregrine_cache_sets_total", ns="tool:test", outcome="SENSITIVE") == 1


async def test_successors_are_compared_with_what_they_replace(cache: Cache) -> None:
    await cache.set(key("a"), b"x", ttl=3600, cost={"seconds": 2})
    cache.clock.ahead += 100
    await cache.set(key("a"), b"x", ttl=3600)
    cache.clock.ahead += 40
    await cache.set(key("a"), b"y", ttl=3600)
    name = "peregrine_cache_reval_age_seconds"
    assert cache.sample(f"{name}_sum", ns="tool:test", changed="0") == pytest.approx(100)
    assert cache.sample(f"{name}_sum", ns="tool:test", changed="1") == pytest.approx(40)
    assert cache.sample("peregrine_cache_miss_cost_seconds_sum", ns="tool:test") == 2
