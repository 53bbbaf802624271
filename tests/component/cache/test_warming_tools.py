"""Results of tools are loaded ahead of need by calling the tools: on whose behalf, and whose never.

A real cache service and a real tool worker, each of which calls the other.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.cache import main as cache_main
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from peregrine.kit.settings import Secret
from peregrine.tools import main as tools_main
from tests.component.cache.conftest import ADA, BOB
from tests.support import tools_module
from tests.support.eventually import eventually
from tests.support.identity import KEYS_TEXT, asked_for, signed
from tests.support.ports import free_port

OURS, HERS = "tool:look_up_for_all", "tool:look_up"
NOT_KEPT = (tools_pb2.CACHE_TIER_UNSPECIFIED, tools_pb2.CACHE_TIER_NONE)


class Together:
    """A cache and a worker; `executions` are the calls that were really made, by whom."""

    def __init__(self, environ: dict[str, Any], record: Path, *, identity: bool) -> None:
        self.cache_target = f"127.0.0.1:{free_port()}"
        self.tools_target = f"127.0.0.1:{free_port()}"
        self.identity = identity
        self._environ = environ
        self._record = record

    def said(self, who: Identity) -> Any:
        if self.identity:
            return signed(who, "run")
        return ((context.TENANT_KEY, who.tenant), (context.USER_KEY, who.user))

    @property
    def executions(self) -> list[str]:
        return tools_module.executions(self._record)

    def settings(self) -> dict[str, Any]:
        keys = Secret(KEYS_TEXT) if self.identity else None
        return {"auth_required": self.identity, "identity_keys": keys}

    async def open(self, stack: AsyncExitStack, **settings: Any) -> None:
        """`settings` of the worker."""
        await self.open_cache(stack)
        worker = await stack.enter_async_context(
            tools_main.build(
                tools_main.Settings(
                    listen=self.tools_target,
                    postgres_dsn=Secret(self._environ["dsn"]),
                    postgres_pool_size=2,
                    modules=("tests.support.tools_module",),
                    cache_target=self.cache_target,
                    near_cache_bytes=0,
                    **(self.settings() | settings),
                )
            )
        )
        await stack.enter_async_context(worker)
        await worker.serving()
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(self.cache_target))
        self.cache = cache_pb2_grpc.CacheServiceStub(channel)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(self.tools_target))
        self.tools = tools_pb2_grpc.ToolServiceStub(channel)

    async def open_cache(self, stack: AsyncExitStack, address: str = "") -> None:
        server = await stack.enter_async_context(
            cache_main.build(
                cache_main.Settings(
                    listen=address or self.cache_target,
                    postgres_dsn=Secret(self._environ["dsn"]),
                    cache_redis_url=Secret(self._environ["redis"]),
                    redis_timeout_seconds=1.0,
                    postgres_timeout_seconds=1.0,
                    tools_target=self.tools_target,
                    **self.settings(),
                )
            )
        )
        await stack.enter_async_context(server)
        await server.serving()

    async def call(self, tool: str, who: Identity, arguments: object = None) -> Any:
        utf8 = json.dumps(arguments or {"what": 1}).encode()
        call = tools_pb2.ToolCall(tool=tool, arguments=common_pb2.Json(utf8=utf8))
        response = await self.tools.ExecuteTool(
            tools_pb2.ExecuteToolRequest(call=call), metadata=self.said(who), timeout=30
        )
        assert response.result.status == tools_pb2.TOOL_STATUS_SUCCEEDED, response
        return response.result

    async def kept(self, tool: str, who: Identity) -> None:
        """Calls until the answer comes from the cache, and is thus known there."""

        async def cached() -> bool:
            result = await self.call(tool, who)
            return bool(result.cache_tier not in NOT_KEPT)

        await eventually(cached)

    async def warm(self, namespace: str, who: Identity, *keys: str) -> Any:
        request = cache_pb2.WarmRequest(namespace=namespace, max_rate=1_000)
        if keys:
            named = [cache_pb2.Key(key=key.encode(), scope=common_pb2.SCOPE_TENANT) for key in keys]
            request.keys.keys.extend(named)
        else:
            request.most_frequent = 10
        said = [
            each async for each in self.cache.Warm(request, metadata=self.said(who), timeout=60)
        ]
        return said[-1]

    async def invalidate(self, namespace: str, who: Identity) -> None:
        request = cache_pb2.InvalidateRequest(namespace=namespace)
        await self.cache.Invalidate(request, metadata=self.said(who), timeout=20)

    async def loaded(self, namespace: str, who: Identity) -> None:
        """Loads the one result that was asked for, as soon as it is known with its arguments."""

        async def loaded() -> bool:
            end = await self.warm(namespace, who)
            assert end.total <= 1 and not end.present
            return bool(end.loaded)

        await eventually(loaded)


@pytest.fixture(params=[False, True], ids=["open", "identity"])
async def together(
    request: pytest.FixtureRequest,
    migrated_dsn: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Together, AsyncExitStack]]:
    if asked_for() and not request.param:
        pytest.skip("the suite is to run with identity on")
    record = tmp_path / "executions"
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(record))
    monkeypatch.setattr("peregrine.cache.frequencies._EVERY_SECONDS", 0.05)
    one = Together({"dsn": migrated_dsn, "redis": redis_url}, record, identity=request.param)
    async with AsyncExitStack() as stack:
        await one.open(stack)
        yield one, stack


async def test_what_a_tenant_shares_is_loaded_on_behalf_of_who_asks(
    together: tuple[Together, AsyncExitStack],
) -> None:
    one, _ = together
    await one.kept("look_up_for_all", ADA)
    hers = one.executions
    assert set(hers) == {"acme/ada"}
    await one.invalidate(OURS, BOB)
    await one.loaded(OURS, BOB)
    assert one.executions == [*hers, "acme/bob"]
    await one.kept("look_up_for_all", ADA)
    assert one.executions == [*hers, "acme/bob"]
    assert (await one.warm(OURS, ADA)).present == 1


async def test_what_is_a_users_own_is_loaded_for_nobody_else(
    together: tuple[Together, AsyncExitStack],
) -> None:
    one, _ = together
    await one.kept("look_up", ADA)
    hers = one.executions
    await one.invalidate(HERS, ADA)
    await one.loaded(HERS, ADA)
    assert one.executions == [*hers, "acme/ada"]
    await one.invalidate(HERS, ADA)
    assert (await one.warm(HERS, BOB)).total == 0
    assert one.executions == [*hers, "acme/ada"]


async def test_a_list_says_with_which_arguments(
    together: tuple[Together, AsyncExitStack],
) -> None:
    one, _ = together
    end = await one.warm(OURS, ADA, '{"what": 1}', "no arguments")
    assert (end.loaded, end.failed) == (1, 1)
    await one.kept("look_up_for_all", BOB)
    assert one.executions == ["acme/ada"]
    assert (await one.warm(OURS, ADA, '{ "what":1 }')).present == 1


async def test_a_tool_that_changes_something_is_never_called(
    together: tuple[Together, AsyncExitStack],
) -> None:
    one, _ = together
    end = await one.warm("tool:record_write", ADA, '{"text": "x"}')
    assert (end.loaded, end.failed) == (0, 1)
    assert one.executions == []


async def test_a_cache_that_starts_loads_what_is_shared_and_nobodys_own(
    together: tuple[Together, AsyncExitStack],
) -> None:
    one, stack = together
    for tool, namespace in (("look_up", HERS), ("look_up_for_all", OURS)):
        policy = cache_pb2.Policy(namespace=namespace, warm_at_start=True)
        admin = signed(ADA) if one.identity else one.said(ADA)
        request = cache_pb2.ApplyPolicyRequest(policy=policy)
        await one.cache.ApplyPolicy(request, metadata=admin, timeout=20)
        await one.kept(tool, ADA)
        await one.invalidate(namespace, ADA)
        await one.loaded(namespace, ADA)
        await one.invalidate(namespace, ADA)
    assert one.executions == ["acme/ada"] * 4
    await one.open_cache(stack, f"127.0.0.1:{free_port()}")
    await eventually(lambda: len(one.executions) > 4, timeout=30)
    await one.kept("look_up_for_all", ADA)
    assert one.executions == ["acme/ada"] * 4 + ["acme/cache"]


async def test_whoever_cannot_be_proved_any_more_is_told_and_nothing_else_is_tried(
    migrated_dsn: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "executions"
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(record))
    one = Together({"dsn": migrated_dsn, "redis": redis_url}, record, identity=True)
    async with AsyncExitStack() as stack:
        # A worker that takes none of the proofs, as one takes none that has ended.
        await one.open(stack, identity_keys=Secret(f"another:{KEYS_TEXT.partition(':')[2]}"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one.warm(OURS, ADA, *(f'{{"what": {n}}}' for n in range(40)))
        assert from_rpc_error(caught.value).reason == "IDENTITY_ENDED"
        assert one.executions == []
