"""A change that is asked for twice happens once: two workers, one ledger."""

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit.background import Failures
from peregrine.kit.context import Identity
from peregrine.kit.postgres import ALL_TENANTS, Database
from peregrine.kit.settings import Secret
from peregrine.tools import ledger as ledgers
from peregrine.tools import main
from peregrine.tools.ledger import Effect, Found, Ledger
from tests.component.tools.conftest import call, text
from tests.support import tools_module
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy

SUCCEEDED, FAILED, IN_DOUBT = (
    tools_pb2.TOOL_STATUS_SUCCEEDED,
    tools_pb2.TOOL_STATUS_FAILED,
    tools_pb2.TOOL_STATUS_IN_DOUBT,
)
WHO = Identity("acme", "ada")
Stub = tools_pb2_grpc.ToolServiceStub
Start = Callable[..., AbstractAsyncContextManager[Stub]]


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    path = tmp_path / "executions"
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(path))
    return lambda: tools_module.executions(path)


@pytest.fixture
def start(settings: main.Settings) -> Start:
    @asynccontextmanager
    async def started(**changes: Any) -> AsyncIterator[Stub]:
        async with main.build(dataclasses.replace(settings, **changes)) as worker, worker:
            await worker.serving()
            async with grpc.aio.insecure_channel(worker.address) as channel:
                yield Stub(channel)

    return started


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[Database]:
    async with await Database.connect(migrated_dsn) as database:
        yield database


async def execute(
    stub: Stub, tool: str, arguments: Any, key: str, who: Identity = WHO
) -> tools_pb2.ToolResult:
    request = tools_pb2.ExecuteToolRequest(call=call(tool, arguments, idempotency_key=key))
    metadata = (("peregrine-tenant", who.tenant), ("peregrine-user", who.user))
    return (await stub.ExecuteTool(request, timeout=30, metadata=metadata)).result


async def test_the_second_call_of_a_change_is_told_what_the_first_one_was(
    start: Start, lines: Callable[[], list[str]]
) -> None:
    async with start() as one, start() as other:
        first = await execute(one, "record_write", {"text": "x"}, "k")
        for stub in (one, other):
            again = await execute(stub, "record_write", {"text": "x"}, "k")
            assert (again.status, text(again), again.replayed) == (SUCCEEDED, text(first), True)
            assert again.execution_time == first.execution_time
        assert not first.replayed
        assert lines() == ["k x"]
        # The same key of somebody else is another key.
        await execute(one, "record_write", {"text": "x"}, "k", Identity("acme", "bob"))
        await execute(one, "record_write", {"text": "x"}, "k", Identity("other", "ada"))
        assert lines() == ["k x"] * 3


async def test_a_refusal_is_an_outcome_too(start: Start, lines: Callable[[], list[str]]) -> None:
    async with start() as stub:
        for replayed in (False, True):
            result = await execute(stub, "refused_write", {"text": "x"}, "k")
            assert (result.status, result.error.reason) == (FAILED, "NOT_ENOUGH")
            assert result.replayed is replayed
    assert lines() == ["x"]


async def test_a_key_is_for_one_call(start: Start, lines: Callable[[], list[str]]) -> None:
    async with start() as stub:
        await execute(stub, "record_write", {"text": "x"}, "k")
        for tool, arguments in (
            ("record_write", {"text": "y"}),
            ("refused_write", {"text": "x"}),
        ):
            result = await execute(stub, tool, arguments, "k")
            assert (result.status, result.error.reason) == (FAILED, "IDEMPOTENCY_KEY_REUSED")
    assert lines() == ["k x"]


async def test_of_many_at_once_on_two_workers_one_runs_and_all_are_told(
    start: Start, lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    arguments = {"text": "x", "gate": str(gate)}
    async with start() as one, start() as other:
        calls = [
            asyncio.create_task(execute(stub, "gated_write", arguments, "k"))
            for stub in (one, other, one, other)
        ]
        await eventually(lambda: lines() == ["x"])
        gate.touch()
        results = await asyncio.gather(*calls)
        assert {(result.status, text(result)) for result in results} == {(SUCCEEDED, "written x")}
        assert sorted(result.replayed for result in results) == [False, True, True, True]
        assert lines() == ["x"]


async def test_a_change_whose_caller_goes_away_is_finished_if_it_ends_soon(
    start: Start, lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    arguments = {"text": "x", "gate": str(gate)}
    async with start() as stub:
        leaving = asyncio.create_task(execute(stub, "gated_write", arguments, "k"))
        await eventually(lambda: lines() == ["x"])
        leaving.cancel()
        gate.touch()
        result = await execute(stub, "gated_write", arguments, "k")
        assert (result.status, text(result), result.replayed) == (SUCCEEDED, "written x", True)
        assert lines() == ["x"]


async def test_one_that_does_not_end_soon_is_cancelled_and_in_doubt(
    start: Start, lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    arguments = {"text": "x", "gate": str(tmp_path / "never")}
    async with start() as stub:
        leaving = asyncio.create_task(execute(stub, "gated_write", arguments, "k"))
        await eventually(lambda: lines() == ["x"])
        leaving.cancel()
        result = await execute(stub, "gated_write", arguments, "k")
        assert (result.status, result.error.reason) == (IN_DOUBT, "TOOL_CANCELLED")
        stats = await stub.GetExecutionStats(tools_pb2.GetExecutionStatsRequest(), timeout=20)
        assert stats.in_flight == 0
        assert lines() == ["x"]


async def lost(database: Database, tool: str, arguments: str, key: str) -> None:
    """Leaves what a worker leaves that was killed in the middle of a change."""
    from peregrine.tools.effects import _digest

    dead = Ledger(database=database, failures=Failures().of("ledger"))
    effect = Effect(WHO, key, _digest(tool, {"text": arguments}))
    assert (await dead.begin(effect)).found is Found.BEGUN
    async with database.transaction("acme") as conn:
        await conn.execute("age", "UPDATE tools.effects SET alive_until = now() - interval '1 ms'")


async def test_a_change_whose_worker_was_lost_is_in_doubt_and_not_run(
    start: Start, lines: Callable[[], list[str]], database: Database
) -> None:
    await lost(database, "record_write", "x", "k")
    async with start() as stub:
        for _ in range(2):
            result = await execute(stub, "record_write", {"text": "x"}, "k")
            assert (result.status, result.error.reason) == (IN_DOUBT, "TOOL_OUTCOME_UNKNOWN")
    assert lines() == []


async def test_one_that_may_be_run_again_is(
    start: Start, lines: Callable[[], list[str]], database: Database
) -> None:
    await lost(database, "repeatable_write", "x", "k")
    async with start() as stub:
        result = await execute(stub, "repeatable_write", {"text": "x"}, "k")
        assert (result.status, result.replayed) == (SUCCEEDED, False)
        result = await execute(stub, "repeatable_write", {"text": "x"}, "k")
        assert (result.status, result.replayed) == (SUCCEEDED, True)
    assert lines() == ["x"]


async def test_a_change_that_cannot_be_made_any_more_still_says_what_it_was(
    start: Start, lines: Callable[[], list[str]], database: Database
) -> None:
    await lost(database, "record_write", "x", "k")
    async with start(modules=()) as stub:
        result = await execute(stub, "record_write", {"text": "x"}, "k")
        assert result.status == IN_DOUBT
        result = await execute(stub, "record_write", {"text": "x"}, "unused")
        assert (result.status, result.error.reason) == (FAILED, "TOOL_NOT_FOUND")


async def test_without_the_ledger_nothing_is_changed_unless_it_may_be_run_again(
    start: Start, lines: Callable[[], list[str]], migrated_dsn: str
) -> None:
    async with fault_proxy(socket_path(migrated_dsn)) as proxy:
        async with start(postgres_dsn=Secret(through(migrated_dsn, proxy.address))) as stub:
            proxy.cut()
            result = await execute(stub, "record_write", {"text": "x"}, "k")
            assert (result.status, result.error.reason) == (FAILED, "LEDGER_UNAVAILABLE")
            assert lines() == []
            result = await execute(stub, "repeatable_write", {"text": "y"}, "r")
            assert result.status == SUCCEEDED
            assert lines() == ["y"]
            proxy.resume()
            await eventually(lambda: succeeded(stub))
            assert lines() == ["y", "k x"]


async def succeeded(stub: Stub) -> bool:
    return (await execute(stub, "record_write", {"text": "x"}, "k")).status == SUCCEEDED


async def test_an_outcome_that_was_not_recorded_is_recorded_later(
    migrated_dsn: str, database: Database
) -> None:
    effect = Effect(WHO, str(uuid.uuid4()), b"digest")
    async with fault_proxy(socket_path(migrated_dsn)) as proxy:
        async with await Database.connect(through(migrated_dsn, proxy.address)) as cuttable:
            ledger = Ledger(database=cuttable, failures=Failures().of("ledger"))
            await ledger.begin(effect)
            proxy.cut()
            await ledger.end(effect, b"done")
            assert await ledger.begin(effect) == ledgers.Entry(Found.ENDED, b"done")
            proxy.resume()
            await ledger.renew()
            entry = await Ledger(database=database, failures=Failures().of("ledger")).begin(effect)
            assert entry == ledgers.Entry(Found.ENDED, b"done")


async def test_a_worker_says_that_it_lives(database: Database) -> None:
    effect = Effect(WHO, "k", b"digest")
    ledger = Ledger(database=database, failures=Failures().of("ledger"))
    await ledger.begin(effect)
    async with database.transaction("acme") as conn:
        await conn.execute("age", "UPDATE tools.effects SET alive_until = now() - interval '1 ms'")
    await ledger.renew()
    assert (
        await Ledger(database=database, failures=Failures().of("ledger")).begin(effect)
    ).found is Found.UNDER_WAY


async def test_what_is_older_than_a_day_is_forgotten(database: Database) -> None:
    ledger = Ledger(database=database, failures=Failures().of("ledger"))
    for key in ("old", "new"):
        await ledger.begin(Effect(WHO, key, b"digest"))
        await ledger.end(Effect(WHO, key, b"digest"), b"done")
    async with database.transaction("acme") as conn:
        await conn.execute(
            "age",
            "UPDATE tools.effects SET create_time = now() - interval '25 hours' WHERE key = 'old'",
        )
    assert await ledger.sweep() == 1
    assert await ledger.look(WHO, "old") is None
    assert await ledger.look(WHO, "new") is not None


@pytest.mark.parametrize(
    ("sql", "arguments"),
    [
        (ledgers.READ, ("acme", "ada", "k")),
        (ledgers.RENEW, (uuid.uuid4(),)),
        (ledgers.END, ("acme", "ada", "k", uuid.uuid4(), b"")),
        (ledgers.SWEEP, (10,)),
    ],
    ids=["read", "renew", "end", "sweep"],
)
async def test_no_statement_reads_the_whole_ledger(
    database: Database, sql: str, arguments: tuple[Any, ...]
) -> None:
    async with database.transaction(ALL_TENANTS, timeout=20) as conn:
        await conn.execute(
            "fill",
            "INSERT INTO tools.effects (tenant, user_id, key, digest, result, owner, alive_until) "
            "SELECT 'acme', 'ada', n::text, '', '', gen_random_uuid(), now() "
            "FROM generate_series(1, 5000) AS n",
        )
    async with database.transaction(ALL_TENANTS, timeout=20) as conn:
        await conn.execute("prefer", "SET LOCAL enable_seqscan = off")
        rows = await conn.fetch("explain", f"EXPLAIN {sql}", *arguments)
    plan = "\n".join(row[0] for row in rows)
    assert "Index" in plan and "Seq Scan" not in plan, plan
