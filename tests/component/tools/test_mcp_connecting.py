"""When MCP servers are connected to: at first need, or before it when somebody asks for that."""

import os
import signal
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit.postgres import ALL_TENANTS, Database
from peregrine.tools.applied import WANTED
from tests.component.tools.conftest import text
from tests.component.tools.test_applied import (
    ACME,
    Start,
    Stub,
    apply,
    delete,
    execute,
    server,
    start,
)
from tests.component.tools.test_mcp import command, declared, state
from tests.support import stack
from tests.support.eventually import eventually

pytest.importorskip("mcp", reason="the extra tools is not installed")

__all__ = ["server", "start", "state"]


def begun(state: Path) -> list[int]:
    """The processes of the server that were started; each is a session."""
    record = state / "begun"
    return [int(line) for line in record.read_text().split()] if record.exists() else []


async def connect(stub: Stub, *names: str) -> set[str]:
    request = tools_pb2.ListToolsRequest(names=names, connect=True)
    response = await stub.ListTools(request, timeout=60, metadata=ACME)
    return {each.tool.name for each in response.tools}


async def connected(stub: Stub, name: str) -> None:
    """Asks until the server has answered, which takes a moment on a busy machine."""

    async def answered() -> bool:
        return "srv_shout" in await connect(stub, name)

    await eventually(answered, timeout=60)


async def test_nothing_is_connected_for_an_applied_server(start: Start, state: Path) -> None:
    async with start() as stub:
        await apply(stub, declared(command(state)))
        assert await connect(stub, "calculator") == {"calculator"}
        assert text(await execute(stub, "calculator", {"expression": "1+1"}))
    assert begun(state) == []


async def test_every_worker_connects_when_one_is_asked_to_and_so_does_one_that_starts_later(
    start: Start, state: Path
) -> None:
    async with start() as one, start():
        await apply(one, declared(command(state)))
        await connected(one, "srv")
        await eventually(lambda: len(begun(state)) == 2, timeout=60)
        async with start():
            await eventually(lambda: len(begun(state)) == 3, timeout=60)
        # Asked again, they are connected.
        await connected(one, "srv_shout")
        assert text(await execute(one, "srv_shout", {"text": "x"})) == "X"
        assert len(begun(state)) == 3


async def test_one_that_was_lost_is_connected_anew_when_it_is_asked_for(
    start: Start, state: Path
) -> None:
    async with start() as stub:
        await apply(stub, declared(command(state)))
        await connected(stub, "srv")
        (pid,) = begun(state)
        os.kill(pid, signal.SIGKILL)

        async def again() -> bool:
            await connect(stub, "srv")
            return len(begun(state)) == 2

        await eventually(again, timeout=60)


async def test_a_declaration_that_changed_is_connected_to_and_a_deleted_one_is_not(
    start: Start, state: Path
) -> None:
    async with start() as stub:
        await apply(stub, declared(command(state)))
        await connected(stub, "srv")
        await apply(stub, declared(command(state), description="Of a test."))
        await eventually(lambda: len(begun(state)) == 2, timeout=60)
        await delete(stub, "srv")
    async with start():
        pass
    assert len(begun(state)) == 2


async def test_an_agent_that_is_not_lazy_has_its_servers_connected_when_it_is_applied(
    migrated_dsn: str, redis_url: str, state: Path
) -> None:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_url) as running:
        address = running.environ["PEREGRINE_TOOLS_TARGET"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = tools_pb2_grpc.ToolServiceStub(channel)
            request = tools_pb2.ApplyToolRequest(tool=declared(command(state)))
            await stub.ApplyTool(request, timeout=20, metadata=running.on_behalf_of())
        await running.apply(stack.agent(tools=["srv_shout"]))
        assert begun(state) == []
        eager = pb.Optimizations(lazy_tools=False)
        await running.apply(stack.agent(tools=["srv_shout"], optimizations=eager))
        await eventually(lambda: len(begun(state)) == 1, timeout=60)
        await running.chat("hello")
        assert len(begun(state)) == 1


async def test_what_is_wanted_is_found_by_an_index(migrated_dsn: str) -> None:
    async with await Database.connect(migrated_dsn, size=1) as database:
        async with database.transaction("acme", timeout=60) as conn:
            await conn.execute(
                "fill",
                "INSERT INTO tools.wanted (tenant, name, until) "
                "SELECT 'acme', 't' || n, now() FROM generate_series(1, 20000) n",
            )
        async with database.transaction(ALL_TENANTS) as conn:
            await conn.execute("analyze", "ANALYZE tools.wanted")
            plan = await conn.fetch("explain", f"EXPLAIN {WANTED}", 19_990, 500)
        assert "Index Scan using wanted_changes" in "\n".join(row[0] for row in plan)
