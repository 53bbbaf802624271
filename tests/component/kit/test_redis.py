"""The Redis client: bounded, quick to fail, and never one reply behind."""

import asyncio

import pytest

from peregrine.kit import redis
from peregrine.kit.settings import Secret
from peregrine.local.servers import RedisServer
from tests.support.ports import free_port
from tests.support.proxy import fault_proxy


async def test_replies_are_bytes(redis_url: str) -> None:
    client = redis.connect(Secret(redis_url))
    try:
        await client.set("key", "value")
        assert await client.get("key") == b"value"
        assert await client.eval("return {KEYS[1], ARGV[1]}", 1, "k", "a") == [b"k", b"a"]
    finally:
        await redis.close(client)


async def test_callers_beyond_the_pool_wait_instead_of_failing(redis_url: str) -> None:
    client = redis.connect(redis_url, max_connections=2)
    try:
        results = await asyncio.gather(*(client.incr("n") for _ in range(100)))
        assert sorted(results) == list(range(1, 101))
    finally:
        await redis.close(client)


async def test_a_cancelled_command_never_leaves_its_reply_to_the_next_caller(
    redis_url: str,
) -> None:
    client = redis.connect(redis_url, max_connections=1)
    try:
        await client.set("mine", "mine")
        await client.set("theirs", "theirs")
        for turns in range(60):
            task = asyncio.ensure_future(_get(client, "theirs"))
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await client.get("mine") == b"mine"
            async with client.pipeline(transaction=False) as pipe:
                pipe.get("mine")
                pipe.incr("n")
                assert await pipe.execute() == [b"mine", turns + 1]
    finally:
        await redis.close(client)


async def test_a_cancelled_command_is_cancelled_at_whatever_step_it_was(redis_url: str) -> None:
    """What follows a stream for ever would not end if it could go on after that."""
    client = redis.connect(redis_url, max_connections=1)
    try:
        for turns in range(60):
            task = asyncio.ensure_future(_get(client, "key"))
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            if task.cancel():
                await asyncio.wait([task])
                assert task.cancelled(), f"after {turns % 12} turns of the loop"
    finally:
        await redis.close(client)


async def _get(client: redis.Redis, key: str) -> object:
    return await client.get(key)


async def test_a_cancelled_script_that_blocks_never_leaves_its_reply_either(
    redis_url: str,
) -> None:
    client = redis.connect(redis_url, max_connections=1, timeout=5)
    try:
        await client.set("mine", "mine")
        for _ in range(5):
            task = asyncio.ensure_future(client.blpop(["nothing"], timeout=3))
            await asyncio.wait([task], timeout=0.02)
            task.cancel()
            await asyncio.wait([task])
            assert await client.get("mine") == b"mine"
    finally:
        await redis.close(client)


async def test_a_redis_that_is_not_there_costs_milliseconds() -> None:
    client = redis.connect(f"redis://127.0.0.1:{free_port()}/0")
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        for _ in range(5):
            with pytest.raises(redis.AWAY):
                await client.get("key")
        assert loop.time() - began < 5
    finally:
        await redis.close(client)


async def test_a_redis_that_went_silent_costs_the_timeout_once(redis_server: RedisServer) -> None:
    async with fault_proxy(_address(redis_server)) as proxy:
        client = redis.connect(f"redis://{proxy.address}/0", timeout=0.2, max_connections=1)
        loop = asyncio.get_running_loop()
        try:
            await client.set("key", "value")
            proxy.stall()
            began = loop.time()
            with pytest.raises(redis.AWAY):
                await client.get("key")
            assert loop.time() - began < 5
            proxy.resume()
            assert await client.get("key") == b"value"
        finally:
            await redis.close(client)


async def test_a_restarted_redis_is_used_again_after_one_failure(redis_server: RedisServer) -> None:
    client = redis.connect(redis_server.url())
    try:
        await client.set("key", "value")
        await redis_server.kill()
        with pytest.raises(redis.AWAY):
            await client.get("key")
        await redis_server.restart(empty=True)
        assert await client.get("key") is None
    finally:
        await redis.close(client)


def _address(server: RedisServer) -> str:
    url = server.url()
    if url.startswith("unix:"):
        return url.removeprefix("unix://").removeprefix("unix:").partition("?")[0]
    return url.split("//", 1)[1].split("/", 1)[0]
