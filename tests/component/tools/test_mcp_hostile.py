"""What an MCP server can answer: a clear failed result, at once, and the session goes on."""

import sys
from pathlib import Path

import pytest

from peregrine.api.tools.v1 import tools_pb2
from tests.component.tools.conftest import text
from tests.component.tools.test_applied import Start, apply, execute, server, start
from tests.component.tools.test_mcp import declared

pytest.importorskip("mcp", reason="the extra tools is not installed")

__all__ = ["server", "start"]

ROOT = Path(__file__).parents[3]
RAW = {
    "command": [sys.executable, "-m", "tests.support.mcp_raw"],
    "environment": {"PYTHONPATH": str(ROOT)},
}


async def test_an_answer_that_cannot_be_read_is_a_failed_result_and_the_next_one_comes(
    start: Start, subtests: pytest.Subtests
) -> None:
    async with start() as stub:
        await apply(stub, declared(RAW, "raw"))
        for tool in ("deep", "deep_at_the_end", "not_mcp"):
            with subtests.test(tool=tool):
                result = await execute(stub, f"raw_{tool}")
                assert result.status == tools_pb2.TOOL_STATUS_FAILED
                assert result.error.reason == "MCP_ERROR"
                assert "cannot be read" in text(result) and len(text(result)) < 300
        assert text(await execute(stub, "raw_well")) == "well"
        assert text(await execute(stub, "raw_talkative")) == "heard"


async def test_arguments_that_are_too_deep_reach_no_server(start: Start) -> None:
    async with start() as stub:
        await apply(stub, declared(RAW, "raw"))
        for levels in (129, 900, 10_000):
            deep = b'{"a":' * levels + b"1" + b"}" * levels
            result = await execute(stub, "raw_well", deep)
            assert result.error.reason == "ARGUMENTS_INVALID"
            assert "nested too deeply" in text(result)
        most = b'{"a":' * 128 + b"1" + b"}" * 128
        assert text(await execute(stub, "raw_well", most)) == "well"
