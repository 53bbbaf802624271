"""Applied tools: kept, counted, followed by every worker, called over HTTP, apart by tenant."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit.errors import PeregrineError, from_rpc_error
from peregrine.kit.postgres import ALL_TENANTS, Database
from peregrine.kit.settings import Secret
from peregrine.tools import applied as applied_tools
from peregrine.tools import main
from tests.component.tools.conftest import call, text
from tests.component.tools.unruly import Unruly, unruly
from tests.support.dsn import socket_path, through
from tests.support.eventually import eventually
from tests.support.proxy import fault_proxy

ACME = (("peregrine-tenant", "acme"), ("peregrine-user", "ada"))
OTHER = (("peregrine-tenant", "other"), ("peregrine-user", "bob"))
SCHEMA = {
    "type": "object",
    "properties": {"q": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["q"],
}

Stub = tools_pb2_grpc.ToolServiceStub
Start = Callable[..., AbstractAsyncContextManager[Stub]]


@pytest.fixture
async def server() -> AsyncIterator[Unruly]:
    async with unruly() as running:
        yield running


@pytest.fixture
def start(settings: main.Settings, server: Unruly) -> Start:
    """Starts a worker that may reach the server."""

    @asynccontextmanager
    async def started(
        environ: Mapping[str, str] | None = None, **changes: Any
    ) -> AsyncIterator[Stub]:
        given = {"egress_allow": (f"127.0.0.1:{server.port}",), "tenant": "acme", **changes}
        own = dataclasses.replace(settings, **given)
        async with main.build(own, environ=environ or {}) as worker, worker:
            await worker.serving()
            async with grpc.aio.insecure_channel(worker.address) as channel:
                yield Stub(channel)

    return started


def tool(url: str, name: str = "ask", **changes: Any) -> tools_pb2.Tool:
    http = {"url": url, **changes.pop("http", {})}
    return tools_pb2.Tool(
        **{
            "name": name,
            "description": "Asks.",
            "effect": common_pb2.EFFECT_READ,
            "input_schema": common_pb2.Json(utf8=json.dumps(SCHEMA).encode()),
            "http": tools_pb2.HttpBackend(**http),
            **changes,
        }
    )


async def apply(
    stub: Stub, declared: tools_pb2.Tool, who: Any = ACME, **fields: Any
) -> tools_pb2.RegisteredTool:
    request = tools_pb2.ApplyToolRequest(tool=declared, **fields)
    return (await stub.ApplyTool(request, timeout=20, metadata=who)).tool


async def delete(stub: Stub, name: str, who: Any = ACME, **fields: Any) -> bool:
    request = tools_pb2.DeleteToolRequest(name=name, **fields)
    return bool((await stub.DeleteTool(request, timeout=20, metadata=who)).deleted)


async def execute(
    stub: Stub, name: str, arguments: Any = None, who: Any = ACME, **fields: Any
) -> tools_pb2.ToolResult:
    request = tools_pb2.ExecuteToolRequest(call=call(name, arguments, **fields))
    return (await stub.ExecuteTool(request, timeout=20, metadata=who)).result


async def listed(stub: Stub, who: Any = ACME) -> dict[str, tools_pb2.RegisteredTool]:
    response = await stub.ListTools(
        tools_pb2.ListToolsRequest(page_size=200), timeout=20, metadata=who
    )
    return {each.tool.name: each for each in response.tools}


async def refused(attempt: Any) -> PeregrineError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt
    return from_rpc_error(caught.value)


async def test_a_tool_is_applied_called_changed_and_deleted(start: Start, server: Unruly) -> None:
    async with start() as stub:
        applied = await apply(stub, tool(f"{server.url}/echo/{{q}}?n={{n}}"))
        assert applied.version == 1 and not applied.builtin and applied.create_time.seconds
        assert applied.tool.timeout.seconds == 10
        result = await execute(stub, "ask", {"q": "a/b", "n": 3})
        assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
        assert json.loads(result.structured_content.utf8)["target"] == "/echo/a%2Fb?n=3"
        assert json.loads(text(result))["method"] == "GET"

        # The same again changes nothing.
        assert (await apply(stub, tool(f"{server.url}/echo/{{q}}?n={{n}}"))).version == 1
        assert (await apply(stub, tool(f"{server.url}/hello"))).version == 2
        assert text(await execute(stub, "ask", {"q": "x"})) == "Grüße"
        assert (await listed(stub))["ask"].version == 2

        assert await delete(stub, "ask") is True
        assert await delete(stub, "ask") is False
        assert "ask" not in await listed(stub)
        gone = await execute(stub, "ask", {"q": "x"})
        assert gone.error.reason == "TOOL_NOT_FOUND"
        # Versions go on counting: results are cached under them.
        assert (await apply(stub, tool(f"{server.url}/hello"))).version == 4


async def test_every_worker_follows(start: Start, server: Unruly) -> None:
    async with start() as one, start() as two:
        await apply(one, tool(f"{server.url}/hello"))

        async def version() -> int:
            found = (await listed(two)).get("ask")
            return found.version if found else 0

        async def is_at(wanted: int) -> bool:
            return await version() == wanted

        await eventually(lambda: is_at(1))
        assert text(await execute(two, "ask", {"q": "x"})) == "Grüße"
        await apply(one, tool(f"{server.url}/hello", description="Asks again."))
        await eventually(lambda: is_at(2))
        await delete(one, "ask")
        await eventually(lambda: is_at(0))
    async with start() as later:
        assert "ask" not in await listed(later)


async def test_a_worker_that_starts_knows_the_tools_from_the_first_call(
    start: Start, server: Unruly
) -> None:
    async with start() as one:
        await apply(one, tool(f"{server.url}/hello"))
    async with start() as two:
        assert text(await execute(two, "ask", {"q": "x"})) == "Grüße"


async def test_tenants_do_not_see_each_others_tools(start: Start, server: Unruly) -> None:
    async with start() as stub:
        await apply(stub, tool(f"{server.url}/hello"))
        await apply(stub, tool(f"{server.url}/echo"), OTHER)
        await apply(stub, tool(f"{server.url}/echo", "own"), OTHER)
        assert text(await execute(stub, "ask", {"q": "x"})) == "Grüße"
        assert "GET" in text(await execute(stub, "ask", {"q": "x"}, OTHER))
        assert "own" not in await listed(stub)
        unknown = await execute(stub, "own", {"q": "x"})
        assert unknown.error.reason == "TOOL_NOT_FOUND" and "own," not in text(unknown)
        assert await delete(stub, "own") is False
        assert await delete(stub, "ask") is True
        assert "ask" in await listed(stub, OTHER)


async def test_a_wrong_declaration_is_refused_with_its_fields(start: Start) -> None:
    async with start() as stub:
        error = await refused(apply(stub, tool("https://{q}.example/", description="")))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOOL_INVALID")
        assert {field for field, _ in error.violations} == {"tool.http.url", "tool.description"}
        for name in ("calculator", "http_get"):
            error = await refused(apply(stub, tool("https://api.example/", name)))
            assert (error.code, error.reason) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "TOOL_BUILTIN",
            )
            assert (await refused(delete(stub, name))).reason == "TOOL_BUILTIN"
        assert "ask" not in await listed(stub)


async def test_two_writers_meet_at_the_version(start: Start, server: Unruly) -> None:
    async with start() as stub:
        first, second = tool(f"{server.url}/hello"), tool(f"{server.url}/echo")
        assert (await refused(apply(stub, first, expected_version=1))).reason == "VERSION_STALE"
        assert (await apply(stub, first, expected_version=0)).version == 1
        assert (await refused(apply(stub, first, expected_version=0))).reason == "VERSION_STALE"
        assert (await apply(stub, second, expected_version=1)).version == 2


async def test_a_request_id_is_answered_once(start: Start, server: Unruly) -> None:
    async with start() as stub:
        first, second = tool(f"{server.url}/hello"), tool(f"{server.url}/echo")
        assert (await apply(stub, first, request_id="r1")).version == 1
        assert (await apply(stub, second, request_id="r2")).version == 2
        # A late repetition does not undo what came after it.
        assert (await apply(stub, first, request_id="r1")).version == 1
        assert (await listed(stub))["ask"].version == 2
        error = await refused(apply(stub, second, request_id="r1"))
        assert (error.code, error.reason) == (
            grpc.StatusCode.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
        )
        assert await delete(stub, "ask", request_id="r3") is True
        assert await delete(stub, "ask", request_id="r3") is True
        assert (await apply(stub, first, OTHER, request_id="r1")).version == 1


async def test_a_secret_goes_into_its_header_and_nowhere_else(
    start: Start, server: Unruly, capfd: pytest.CaptureFixture[str]
) -> None:
    declared = tool(f"{server.url}/echo", http={"secret_headers": {"Authorization": "CRM_TOKEN"}})
    environ = {"PEREGRINE_SECRET_CRM_TOKEN": "Bearer s3cr3t-t0ken"}
    async with start(environ) as stub:
        await apply(stub, declared)
        result = await execute(stub, "ask", {"q": "x"})
        assert result.status == tools_pb2.TOOL_STATUS_SUCCEEDED
        assert server.requests[-1][2]["authorization"] == "Bearer s3cr3t-t0ken"
        assert b"s3cr3t" not in result.SerializeToString()
        every = await listed(stub)
        assert "s3cr3t" not in str(every["ask"])
        error = await refused(apply(stub, declared, OTHER))
        assert error.reason == "TOOL_INVALID"
    async with start() as without:
        missing = await execute(without, "ask", {"q": "x"})
        assert missing.error.reason == "SECRET_MISSING"
    shown = "".join(capfd.readouterr())
    assert "s3cr3t" not in shown


async def test_a_change_that_is_cut_off_is_in_doubt(start: Start, server: Unruly) -> None:
    write = {"effect": common_pb2.EFFECT_WRITE}
    async with start() as stub:
        await apply(stub, tool(f"{server.url}/cut", http={"method": "POST"}, **write))
        result = await execute(stub, "ask", {"q": "x"}, idempotency_key="k")
        assert result.status == tools_pb2.TOOL_STATUS_IN_DOUBT
        posts = [headers for method, _, headers, _ in server.requests if method == "POST"]
        assert [headers["idempotency-key"] for headers in posts] == ["k"]


async def test_a_flaky_server_is_tried_again(start: Start, server: Unruly) -> None:
    async with start() as stub:
        await apply(stub, tool(f"{server.url}/flaky", retries=2))
        server.failures_left = 2
        assert text(await execute(stub, "ask", {"q": "x"})) == "now"


async def test_a_declared_tool_is_under_the_rules_of_egress(start: Start, server: Unruly) -> None:
    async with start(egress_allow=()) as stub:
        await apply(stub, tool(f"{server.url}/hello"))
        result = await execute(stub, "ask", {"q": "x"})
        assert result.error.reason == "EGRESS_REFUSED"
        result = await execute(stub, "http_get", {"url": "http://169.254.169.254/latest/"})
        assert result.error.reason == "EGRESS_REFUSED"
    assert server.connections == 0


async def test_applied_tools_stay_in_force_while_postgresql_is_away(
    start: Start, server: Unruly, migrated_dsn: str
) -> None:
    async with fault_proxy(socket_path(migrated_dsn)) as proxy:
        dsn = Secret(through(migrated_dsn, proxy.address))
        async with start(postgres_dsn=dsn) as stub:
            await apply(stub, tool(f"{server.url}/hello"))
            proxy.cut()
            assert text(await execute(stub, "ask", {"q": "x"})) == "Grüße"
            error = await refused(apply(stub, tool(f"{server.url}/echo")))
            assert error.reason == "POSTGRES_UNAVAILABLE"
            proxy.resume()

            async def applied() -> bool:
                try:
                    return (await apply(stub, tool(f"{server.url}/echo"))).version == 2
                except grpc.aio.AioRpcError:
                    return False

            await eventually(applied, timeout=10)


async def test_following_reads_what_is_new_by_an_index(migrated_dsn: str) -> None:
    async with await Database.connect(migrated_dsn, size=1) as database:
        async with database.transaction("acme", timeout=60) as conn:
            await conn.execute(
                "fill",
                "INSERT INTO tools.registry (tenant, name, version, tool) "
                "SELECT 'acme', 't' || n, 1, '' FROM generate_series(1, 20000) n",
            )
        async with database.transaction(ALL_TENANTS) as conn:
            await conn.execute("analyze", "ANALYZE tools.registry")
            last = await conn.fetchval("last", "SELECT max(change) FROM tools.registry")
            query = applied_tools.CHANGES.replace("$1", str(last)).replace("$2", "500")
            plan = await conn.fetch("plan", f"EXPLAIN (ANALYZE, BUFFERS) {query}")
    shown = "\n".join(row[0] for row in plan)
    assert "registry_changes" in shown and "Seq Scan" not in shown


async def test_http_get_reads_what_is_open(start: Start, server: Unruly) -> None:
    async with start() as stub:
        result = await execute(stub, "http_get", {"url": f"{server.url}/echo?a=1"})
        assert json.loads(result.structured_content.utf8)["target"] == "/echo?a=1"
        slow = await execute(
            stub, "http_get", {"url": f"{server.url}/drip"}, timeout={"nanos": 300_000_000}
        )
        assert slow.error.reason in ("HTTP_TIMEOUT", "TOOL_TIMEOUT")


async def test_the_host_of_a_declared_tool_is_connected_to_before_the_first_call(
    start: Start, server: Unruly
) -> None:
    async with start() as stub:
        await apply(stub, tool(f"{server.url}/hello"))
        await eventually(lambda: bool(server.requests))
        await execute(stub, "ask", {"q": "x"})
        assert server.connections == 1


async def test_a_tool_whose_setting_is_missing_is_listed_as_off(
    start: Start, server: Unruly
) -> None:
    declared = tool("${PEREGRINE_EXAMPLE_HTTP_URL}/hello")
    async with start() as stub:
        await apply(stub, declared)
        found = (await listed(stub))["ask"]
        assert found.disabled_reason == "PEREGRINE_EXAMPLE_HTTP_URL is not set"
        assert (await execute(stub, "ask", {"q": "x"})).error.reason == "TOOL_DISABLED"
    async with start(example_url=server.url) as stub:
        assert not (await listed(stub))["ask"].disabled_reason
        assert text(await execute(stub, "ask", {"q": "x"})) == "Grüße"
