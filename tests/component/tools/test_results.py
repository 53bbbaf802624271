"""Results that are kept, found again by whom they are for, and never when they must not be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.cache import main as cache_service
from peregrine.kit.context import Identity
from peregrine.kit.serve import Server
from peregrine.kit.settings import Secret
from peregrine.tools import main
from tests.component.tools.conftest import Worker, call, text
from tests.support import tools_module
from tests.support.eventually import eventually
from tests.support.identity import KEYS_TEXT, signed
from tests.support.ports import free_port
from tests.support.proxy import FaultProxy, fault_proxy

ADA, BOB, OTHER = Identity("acme", "ada"), Identity("acme", "bob"), Identity("umbrella", "ada")
NONE, NEAR = tools_pb2.CACHE_TIER_NONE, tools_pb2.CACHE_TIER_NEAR
REDIS, POSTGRES = tools_pb2.CACHE_TIER_REDIS, tools_pb2.CACHE_TIER_POSTGRES


class Bench:
    """Workers around one cache service, and what their tools left behind."""

    def __init__(
        self, stack: AsyncExitStack, settings: main.Settings, executions: Path, target: str
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._executions = executions
        self.target = target

    async def worker(self, **changes: Any) -> Worker:
        given = {
            "auth_required": True,
            "identity_keys": Secret(KEYS_TEXT),
            "cache_target": self.target,
        }
        settings = replace(self._settings, **{**given, **changes})
        registry = CollectorRegistry()
        built = main.build(settings, metrics_registry=registry)
        server = await self._stack.enter_async_context(built)
        await self._stack.enter_async_context(server)
        await server.serving()
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        return Worker(tools_pb2_grpc.ToolServiceStub(channel), registry)

    @property
    def executions(self) -> list[str]:
        return tools_module.executions(self._executions)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def cache(migrated_dsn: str, redis_url: str, stack: AsyncExitStack) -> Server:
    settings = cache_service.Settings(
        identity_keys=Secret(KEYS_TEXT),
        listen="127.0.0.1:0",
        postgres_dsn=Secret(migrated_dsn),
        cache_redis_url=Secret(redis_url),
        redis_timeout_seconds=1.0,
        postgres_timeout_seconds=1.0,
    )
    server = await stack.enter_async_context(cache_service.build(settings))
    await stack.enter_async_context(server)
    await server.serving()
    return server


@pytest.fixture
def bench(
    cache: Server,
    stack: AsyncExitStack,
    settings: main.Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    executions = tmp_path / "executions"
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(executions))
    return Bench(stack, settings, executions, cache.address)


async def ask(
    worker: Worker, tool: str, arguments: Any = None, who: Identity = ADA, **fields: Any
) -> tools_pb2.ToolResult:
    request = tools_pb2.ExecuteToolRequest(call=call(tool, arguments, **fields))
    answer = await worker.stub.ExecuteTool(request, timeout=20, metadata=signed(who))
    return answer.result


async def until_stored(worker: Worker, tool: str, arguments: Any, who: Identity = ADA) -> None:
    """Storing goes on behind the answer, so ask until another worker would be answered, too."""

    async def stored() -> bool:
        return (await ask(worker, tool, arguments, who)).cache_tier != NONE

    await eventually(stored)


async def test_a_result_is_found_in_the_process_then_in_the_service_and_says_so(
    bench: Bench,
) -> None:
    first, second = await bench.worker(), await bench.worker(near_cache_bytes=0)
    computed = await ask(first, "look_up", {"a": 1, "b": {"d": 1, "c": [2]}}, call_id="one")
    assert computed.cache_tier == NONE and not computed.HasField("age")
    await until_stored(first, "look_up", {"a": 1, "b": {"d": 1, "c": [2]}})
    near = await ask(first, "look_up", {"b": {"c": [2], "d": 1}, "a": 1}, call_id="two")
    await until_stored(second, "look_up", {"a": 1, "b": {"d": 1, "c": [2]}})
    far = await ask(second, "look_up", {"b": {"c": [2], "d": 1}, "a": 1}, call_id="three")
    assert (near.cache_tier, far.cache_tier) == (NEAR, REDIS)
    assert (near.call_id, far.call_id) == ("two", "three")
    for found in (near, far):
        assert found.content == computed.content
        assert found.structured_content == computed.structured_content
        assert found.execution_time == computed.execution_time
        assert 0 <= found.age.ToNanoseconds() < 60e9 and not found.stale
        assert found.queue_time.ToNanoseconds() == 0
    assert bench.executions == ["acme/ada"]
    stats = await first.stub.GetExecutionStats(
        tools_pb2.GetExecutionStatsRequest(), timeout=20, metadata=signed(ADA)
    )
    (look_up,) = (each for each in stats.tools if each.tool == "look_up")
    assert (look_up.cache_hits, look_up.errors) == (look_up.calls - 1, 0)
    assert first.metric("peregrine_tool_requests_total", "look_up") == 1
    labels = {"tool": "look_up", "pool": "default"}
    looked = "peregrine_tool_cache_lookups_total"
    assert first.sample(looked, labels | {"level": "none"}) == 1
    by_level = [first.sample(looked, labels | {"level": each}) or 0 for each in ("near", "redis")]
    assert sum(by_level) == look_up.cache_hits and by_level[0] >= 1
    assert (second.sample(looked, labels | {"level": "redis"}) or 0) >= 1
    assert first.sample("peregrine_tool_near_cache_bytes", {"pool": "default"})
    assert second.sample("peregrine_tool_near_cache_bytes", {"pool": "default"}) == 0


async def test_no_user_and_no_tenant_is_answered_with_anothers_result(bench: Bench) -> None:
    workers = [await bench.worker(), await bench.worker(near_cache_bytes=0)]
    for who in (ADA, BOB, OTHER):
        assert text(await ask(workers[0], "look_up", {"a": 1}, who)) == f"found for {who.user}"
        await until_stored(workers[1], "look_up", {"a": 1}, who)
    for worker in workers:
        for who in (ADA, BOB, OTHER):
            found = await ask(worker, "look_up", {"a": 1}, who)
            assert found.cache_tier != NONE and text(found) == f"found for {who.user}"
    assert bench.executions == ["acme/ada", "acme/bob", "umbrella/ada"]


async def test_what_is_for_a_tenant_is_shared_by_its_users_and_with_nobody_else(
    bench: Bench,
) -> None:
    worker = await bench.worker()
    await ask(worker, "look_up_for_all", {"a": 1}, ADA)
    await until_stored(worker, "look_up_for_all", {"a": 1}, BOB)
    assert text(await ask(worker, "look_up_for_all", {"a": 1}, BOB)) == "found for ada"
    assert (await ask(worker, "look_up_for_all", {"a": 1}, OTHER)).cache_tier == NONE
    assert bench.executions == ["acme/ada", "umbrella/ada"]


NEVER_KEPT = [
    ("current_time", {}),
    ("calculator", {"expression": "1+1"}),
    ("count", {"text": "x"}),
    ("record_write", {"text": "x"}),
    ("look_up", {"when": {"timestamp": 5}}),
    ("look_up", {"list": [{"Nonce": 1}]}),
    ("fail", {}),
    ("raises", {}),
    ("unshowable", {}),
    ("huge", {}),
    ("echo", b'{"text": '),
]


async def test_such_results_are_never_kept(bench: Bench, subtests: pytest.Subtests) -> None:
    worker = await bench.worker()
    for tool, arguments in NEVER_KEPT:
        with subtests.test(tool=tool, arguments=str(arguments)):
            for number in range(3):
                result = await ask(worker, tool, arguments, idempotency_key=f"k{number}")
                assert result.cache_tier == NONE
    assert bench.executions.count("acme/ada") == 6
    reasons = {"pool": "default", "reason": "TOO_LARGE"}
    assert worker.sample("peregrine_tool_cache_unstored_total", reasons) == 3


async def test_found_documents_do_not_outlive_a_change_of_the_documents(
    bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "refunds.md").write_text("# Refunds\n\nA refund takes five days.\n")
    local = Identity("local", "local")
    question = {"query": "refund"}
    worker = await bench.worker(knowledge_dir=folder)
    assert "five days" in text(await ask(worker, "knowledge_search", question, local))
    await until_stored(worker, "knowledge_search", question, local)
    # A worker that is started with other documents fills them in for all.
    (folder / "refunds.md").write_text("# Refunds\n\nA refund takes nine days.\n")
    second = await bench.worker(knowledge_dir=folder)
    assert "nine days" in text(await ask(second, "knowledge_search", question, local))

    async def follows() -> bool:
        return "nine days" in text(await ask(worker, "knowledge_search", question, local))

    await eventually(follows)
    (folder / "refunds.md").unlink()
    third = await bench.worker(knowledge_dir=folder)
    assert "nothing" in text(await ask(third, "knowledge_search", question, local))


async def test_a_kept_result_needs_no_place_on_a_busy_worker(bench: Bench) -> None:
    worker = await bench.worker(concurrency=1, max_queue=0)
    await ask(worker, "look_up", {"a": 1})
    await until_stored(worker, "look_up", {"a": 1})
    request = tools_pb2.ExecuteToolRequest(call=call("sleep", {"seconds": 60}))
    slow = worker.stub.ExecuteTool(request, timeout=60, metadata=signed(ADA))
    await eventually(lambda: worker.metric("peregrine_tool_inflight", "sleep") == 1)
    assert (await ask(worker, "look_up", {"a": 1})).cache_tier == NEAR
    slow.cancel()


async def test_a_stream_of_calls_uses_kept_results_too(bench: Bench) -> None:
    worker = await bench.worker()
    await ask(worker, "look_up", {"a": 1})
    await until_stored(worker, "look_up", {"a": 1})
    calls = [call("look_up", {"a": 1}, call_id="old"), call("look_up", {"a": 2}, call_id="new")]
    tiers = {}
    async for answer in worker.stub.ExecuteTools(
        tools_pb2.ExecuteToolsRequest(calls=calls), timeout=20, metadata=signed(ADA)
    ):
        tiers |= {result.call_id: result.cache_tier for result in answer.results}
    assert tiers == {"old": NEAR, "new": NONE}


@pytest.fixture
async def proxy(cache: Server) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(cache.address) as proxy:
        yield proxy


@pytest.mark.parametrize("how", ["cut", "stall"])
async def test_a_cache_that_is_away_costs_no_error_and_soon_no_time(
    bench: Bench, proxy: FaultProxy, how: str
) -> None:
    worker = await bench.worker(cache_target=proxy.address, near_cache_bytes=0)
    await ask(worker, "look_up", {"a": 1})
    await until_stored(worker, "look_up", {"a": 1})
    getattr(proxy, how)()
    async with asyncio.timeout(15):  # half of what it takes if each of them waits
        for number in range(100):
            result = await ask(worker, "look_up", {"b": number})
            assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
    proxy.resume()
    await eventually(lambda: _answered_by_the_cache(worker), timeout=10)


async def _answered_by_the_cache(worker: Worker) -> bool:
    return (await ask(worker, "look_up", {"a": 1})).cache_tier == REDIS


async def test_a_cache_that_was_never_there_costs_no_error(bench: Bench) -> None:
    worker = await bench.worker(cache_target=f"127.0.0.1:{free_port()}", near_cache_bytes=0)
    for _ in range(5):
        assert (await ask(worker, "look_up", {"a": 1})).cache_tier == NONE
    assert len(bench.executions) == 5


def written(name: str, effect: int, **fields: Any) -> tools_pb2.ApplyToolRequest:
    """A tool of the test module under another name, with what it is about."""
    function = {common_pb2.EFFECT_READ: "look_up", common_pb2.EFFECT_WRITE: "record_write"}[effect]
    backend = tools_pb2.PythonBackend(function=f"tests.support.tools_module:{function}")
    return tools_pb2.ApplyToolRequest(
        tool=tools_pb2.Tool(name=name, effect=effect, python=backend, **fields)
    )


async def apply(worker: Worker, request: tools_pb2.ApplyToolRequest) -> tools_pb2.RegisteredTool:
    metadata = signed(ADA)
    return (await worker.stub.ApplyTool(request, timeout=20, metadata=metadata)).tool


async def test_a_change_makes_the_reads_that_it_declares_untrue_on_every_worker(
    bench: Bench,
) -> None:
    first, second = await bench.worker(), await bench.worker()
    read, write = common_pb2.EFFECT_READ, common_pb2.EFFECT_WRITE
    await apply(first, written("get_customer", read, tags=["customer:{id}"]))
    await apply(
        first, written("put_customer", write, invalidates=["customer:{text}", "tool:look_up"])
    )
    await eventually(lambda: known(second, "put_customer"))
    for worker in (first, second):
        for name, arguments in (
            ("get_customer", {"id": 1}),
            ("get_customer", {"id": 2}),
            ("look_up", {"id": 3}),
        ):
            await until_stored(worker, name, arguments)
    await ask(first, "put_customer", {"text": "1"}, idempotency_key="k")
    # At once where it was changed; the other worker's near cache hears of it.
    assert (await ask(first, "get_customer", {"id": 1})).cache_tier == NONE
    assert (await ask(first, "look_up", {"id": 3})).cache_tier == NONE
    for worker in (first, second):
        assert (await ask(worker, "get_customer", {"id": 2})).cache_tier != NONE
    executed = len(bench.executions)
    await until_stored(second, "get_customer", {"id": 1})
    assert len(bench.executions) <= executed + 1


async def known(worker: Worker, name: str) -> bool:
    request = tools_pb2.ListToolsRequest(names=[name])
    found = await worker.stub.ListTools(request, timeout=20, metadata=signed(ADA))
    return bool(found.tools)


async def test_results_of_a_tool_are_forgotten_on_demand(bench: Bench) -> None:
    worker = await bench.worker()
    for arguments in ({"a": 1}, {"a": 2}):
        await until_stored(worker, "look_up", arguments)
    await until_stored(worker, "look_up", {"a": 1}, BOB)
    await until_stored(worker, "look_up", {"a": 1}, OTHER)
    one = tools_pb2.InvalidateToolResultsRequest(
        tool="look_up", arguments=common_pb2.Json(utf8=b'{"a": 1}')
    )
    await forget(worker, one)
    assert (await ask(worker, "look_up", {"a": 1})).cache_tier == NONE
    assert (await ask(worker, "look_up", {"a": 2})).cache_tier != NONE
    assert (await ask(worker, "look_up", {"a": 1}, BOB)).cache_tier != NONE
    await forget(worker, tools_pb2.InvalidateToolResultsRequest(tool="look_up"))
    assert (await ask(worker, "look_up", {"a": 2})).cache_tier == NONE
    assert (await ask(worker, "look_up", {"a": 1}, BOB)).cache_tier == NONE
    # Another tenant's are another tenant's.
    assert (await ask(worker, "look_up", {"a": 1}, OTHER)).cache_tier != NONE


async def forget(worker: Worker, request: tools_pb2.InvalidateToolResultsRequest) -> None:
    metadata = signed(ADA)
    await worker.stub.InvalidateToolResults(request, timeout=20, metadata=metadata)


async def test_how_a_built_in_tool_is_kept_is_changed_while_it_runs(bench: Bench) -> None:
    worker = await bench.worker()
    await until_stored(worker, "look_up", {"a": 1})
    never = tools_pb2.Tool(
        name="look_up",
        change_class=tools_pb2.CHANGE_CLASS_NEVER,
        python=tools_pb2.PythonBackend(function="tests.support.tools_module:look_up"),
    )
    await apply(worker, tools_pb2.ApplyToolRequest(tool=never))
    assert (await ask(worker, "look_up", {"a": 1})).cache_tier == NONE
    assert (await ask(worker, "look_up", {"a": 1})).cache_tier == NONE
    other = tools_pb2.Tool(
        name="calculator",
        python=tools_pb2.PythonBackend(function="tests.support.tools_module:look_up"),
    )
    with pytest.raises(grpc.aio.AioRpcError, match="comes with this worker"):
        await apply(worker, tools_pb2.ApplyToolRequest(tool=other))
    over = tools_pb2.Tool(
        name="http_get",
        cache_ttl={"seconds": 7},
        change_class=tools_pb2.CHANGE_CLASS_LIVE,
        builtin=tools_pb2.BuiltinBackend(),
    )
    applied = await apply(worker, tools_pb2.ApplyToolRequest(tool=over))
    assert applied.tool.cache_ttl.seconds == 7
    request = tools_pb2.ListToolsRequest(names=["http_get"])
    found = await worker.stub.ListTools(request, timeout=20, metadata=signed(ADA))
    (listed,) = found.tools
    assert (listed.tool.cache_ttl.seconds, listed.tool.description != "") == (7, True)
    (others,) = (await worker.stub.ListTools(request, timeout=20, metadata=signed(OTHER))).tools
    assert not others.tool.HasField("cache_ttl")
    delete = tools_pb2.DeleteToolRequest(name="http_get")
    metadata = signed(ADA)
    await worker.stub.DeleteTool(delete, timeout=20, metadata=metadata)
    found = await worker.stub.ListTools(request, timeout=20, metadata=signed(ADA))
    assert not found.tools[0].tool.HasField("cache_ttl")
