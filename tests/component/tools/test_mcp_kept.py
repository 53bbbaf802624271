"""What an MCP server says of how long a result is true, and for whom, is honoured."""

from pathlib import Path

import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from tests.component.tools.conftest import Worker, text
from tests.component.tools.test_mcp import command, declared, state
from tests.component.tools.test_results import (
    ADA,
    BOB,
    NONE,
    Bench,
    ask,
    bench,
    cache,
    stack,
    until_stored,
)
from tests.support.identity import signed

pytest.importorskip("mcp", reason="the extra tools is not installed")

__all__ = ["bench", "cache", "stack", "state"]


async def apply(worker: Worker, tool: tools_pb2.Tool) -> None:
    request = tools_pb2.ApplyToolRequest(tool=tool)
    await worker.stub.ApplyTool(request, timeout=20, metadata=signed(ADA))


async def test_a_result_for_one_user_is_kept_for_him_and_for_nobody_else(
    bench: Bench, state: Path
) -> None:
    worker = await bench.worker(tenant="acme")
    await apply(worker, declared(command(state)))
    assert text(await ask(worker, "srv_briefly", {})) == "now"
    await until_stored(worker, "srv_briefly", {})
    assert (await ask(worker, "srv_briefly", {}, BOB)).cache_tier == NONE


async def test_one_that_a_server_calls_private_is_not_kept_for_a_tenant_nor_one_true_for_no_time(
    bench: Bench, state: Path
) -> None:
    worker = await bench.worker(tenant="acme")
    ours = declared({**command(state), "tool": "briefly"}, "ours", scope=common_pb2.SCOPE_TENANT)
    now = declared({**command(state), "tool": "only_now"}, "now")
    not_kept = 0.0

    def unstored() -> float:
        labels = {"pool": "default", "reason": "PRIVATE"}
        return worker.sample("peregrine_tool_cache_unstored_total", labels) or 0.0

    for tool, words in ((ours, "now"), (now, "gone")):
        await apply(worker, tool)
        for _ in range(2):
            result = await ask(worker, tool.name, {})
            assert (text(result), result.cache_tier) == (words, NONE)
            not_kept += 1
            assert unstored() == not_kept
