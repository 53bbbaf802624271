"""Executing tools over gRPC: results, failures, limits, and that none touches another."""

import asyncio
import re
from pathlib import Path

import grpc
import grpc.aio
import orjson
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.errors import from_rpc_error
from tests.component.tools.conftest import Worker, call, text
from tests.support import tools_module
from tests.support.eventually import eventually

SUCCEEDED, FAILED = tools_pb2.TOOL_STATUS_SUCCEEDED, tools_pb2.TOOL_STATUS_FAILED


async def refusal(attempt: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt  # type: ignore[misc] # any call of a stub
    return caught.value.code(), from_rpc_error(caught.value).reason


async def test_the_calculator_answers_with_text_and_data(worker: Worker) -> None:
    result = await worker.execute("calculator", {"expression": "25 * 17"}, call_id="c1")
    assert (result.call_id, result.tool, result.status) == ("c1", "calculator", SUCCEEDED)
    assert text(result) == "425"
    assert orjson.loads(result.structured_content.utf8) == {"result": "425", "exact": True}
    assert not result.HasField("error")


async def test_the_three_built_in_tools_are_listed_with_what_a_model_needs(worker: Worker) -> None:
    names = ["knowledge_search", "current_time", "calculator", "nothing"]
    listed = await worker.stub.ListTools(tools_pb2.ListToolsRequest(names=names), timeout=20)
    assert [each.tool.name for each in listed.tools] == sorted(names[:3])
    for each in listed.tools:
        assert each.builtin and each.version == 1 and each.tool.description
        assert orjson.loads(each.tool.input_schema.utf8)["type"] == "object"
        assert each.tool.WhichOneof("backend") == "builtin"
    calculator = listed.tools[0].tool
    assert calculator.effect == common_pb2.EFFECT_PURE
    assert calculator.timeout.seconds == 5


async def test_tools_are_listed_page_by_page(worker: Worker) -> None:
    names: list[str] = []
    token = ""
    while True:
        page = await worker.stub.ListTools(
            tools_pb2.ListToolsRequest(page_size=4, page_token=token), timeout=20
        )
        assert 1 <= len(page.tools) <= 4
        names += [each.tool.name for each in page.tools]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(names))
    assert {"calculator", "sleep", "hang"} <= set(names)
    for bad in ("nonsense!", "Zm9v"):
        request = tools_pb2.ListToolsRequest(page_token=bad)
        assert await refusal(worker.stub.ListTools(request, timeout=20)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )


UNUSABLE_ARGUMENTS = [
    (b'{"expression": ', "are not JSON"),
    (b"[1]", "not a JSON object"),
    (b'{"expression": 5}', r"at expression, 5 is not of type 'string'"),
    (b"{}", "'expression' is a required property"),
    (b"", "'expression' is a required property"),
    (b'{"expression": "1", "x": 1}', "'x' was unexpected"),
    (b'{"expression": NaN}', "are not JSON"),
    (b'{"expression": "\xff"}', "are not JSON"),
    (b'{"expression": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"expression": "' + b"1" * (1024 * 1024) + b'"}', "longer than"),
]


async def test_unusable_arguments_are_a_failed_result_that_says_where(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for arguments, words in UNUSABLE_ARGUMENTS:
        with subtests.test(arguments=repr(arguments)[:60]):
            result = await worker.execute("calculator", arguments)
            assert (result.status, result.error.reason) == (FAILED, "ARGUMENTS_INVALID")
            assert re.search(words, text(result))
            assert len(text(result)) < 1_000


async def test_an_unknown_tool_is_a_failed_result_that_names_the_known_ones(
    worker: Worker,
) -> None:
    result = await worker.execute("teleport", {})
    assert (result.status, result.error.reason) == (FAILED, "TOOL_NOT_FOUND")
    assert "calculator" in text(result)


BROKEN_TOOLS = ["raises", "raises_blocking", "exits", "cancels_itself", "stops", "unshowable"]


async def test_a_broken_tool_is_a_failed_result_without_internals(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for tool in BROKEN_TOOLS:
        with subtests.test(tool=repr(tool)[:60]):
            result = await worker.execute(tool)
            assert (result.status, result.error.reason) == (FAILED, "TOOL_FAILED")
            assert "hunter2" not in str(result)
            assert text(await worker.execute("echo", {"text": "still here"})) == "still here"
            assert worker.metric("peregrine_tool_inflight", tool) == 0


async def test_a_tool_may_say_why_it_failed(worker: Worker) -> None:
    result = await worker.execute("fail")
    assert (result.status, result.error.reason) == (FAILED, "NONE_LEFT")
    assert text(result) == "There are none left."


@pytest.mark.parametrize("tool", ["hang", "hang_stubbornly", "block"])
async def test_a_tool_that_hangs_times_out_and_stops_nobody_else(worker: Worker, tool: str) -> None:
    # More calls than the tool has places: the rest is refused or times out, and others run.
    stuck = [asyncio.create_task(attempt(worker, tool)) for _ in range(6)]
    for _ in range(20):
        assert text(await worker.execute("echo", {"text": "quick"})) == "quick"
    reasons = await asyncio.gather(*stuck)
    assert set(reasons) <= {"TOOL_TIMEOUT", "TOOLS_OVERLOADED"}
    assert "TOOL_TIMEOUT" in reasons
    tools_module.unblocked.set()
    if tool != "hang_stubbornly":
        await eventually(lambda: worker.metric("peregrine_tool_inflight", tool) == 0)
    stats = await worker.stub.GetExecutionStats(tools_pb2.GetExecutionStatsRequest(), timeout=20)
    assert (stats.in_flight, stats.queued) == (0, 0)


async def attempt(worker: Worker, tool: str) -> str:
    try:
        return (await worker.execute(tool)).error.reason
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason


async def test_a_call_may_shorten_the_timeout_of_its_tool(worker: Worker) -> None:
    shortened = call("sleep", {"seconds": 60})
    shortened.timeout.FromMilliseconds(50)
    answer = await worker.stub.ExecuteTool(tools_pb2.ExecuteToolRequest(call=shortened), timeout=20)
    assert answer.result.error.reason == "TOOL_TIMEOUT"
    assert answer.result.execution_time.ToMilliseconds() >= 50


async def test_cancelling_the_call_cancels_the_tool(worker: Worker) -> None:
    request = tools_pb2.ExecuteToolRequest(call=call("sleep", {"seconds": 60}, call_id="long"))
    running = worker.stub.ExecuteTool(request, timeout=60)
    await eventually(lambda: worker.metric("peregrine_tool_inflight", "sleep") == 1)
    running.cancel()
    await eventually(lambda: tools_module.cancelled == ["long"])
    await eventually(lambda: worker.metric("peregrine_tool_inflight", "sleep") == 0)


async def test_an_output_that_is_too_long_is_cut_and_says_so(worker: Worker) -> None:
    result = await worker.execute("huge")
    assert result.status == SUCCEEDED
    assert len(text(result).encode()) <= 1024 * 1024
    assert text(result).startswith("üü") and "was cut here" in text(result)
    assert not result.structured_content.utf8


async def test_results_stream_as_they_finish(worker: Worker) -> None:
    calls = [
        call("sleep", {"seconds": 0.4}, call_id="slow"),
        call("echo", {"text": "x"}, call_id="quick"),
        call("raises", call_id="broken"),
        call("nothing", call_id="unknown"),
    ]
    seen: list[str] = []
    async for answer in worker.stub.ExecuteTools(
        tools_pb2.ExecuteToolsRequest(calls=calls), timeout=20
    ):
        seen += [result.call_id for result in answer.results]
    assert sorted(seen) == ["broken", "quick", "slow", "unknown"]
    assert seen[-1] == "slow"


async def test_cancelling_a_stream_cancels_what_still_runs(worker: Worker) -> None:
    calls = [call("sleep", {"seconds": 60}, call_id=f"s{number}") for number in range(3)]
    calls.append(call("echo", {"text": "x"}, call_id="quick"))
    stream = worker.stub.ExecuteTools(tools_pb2.ExecuteToolsRequest(calls=calls), timeout=60)
    first = await stream.read()
    assert [result.call_id for result in first.results] == ["quick"]
    stream.cancel()
    await eventually(lambda: sorted(tools_module.cancelled) == ["s0", "s1", "s2"])


BAD_SETS_OF_CALLS = [
    [],
    [call("noop", call_id=str(number)) for number in range(65)],
    [call("noop", call_id="a"), call("noop", call_id="a")],
    [call("noop", call_id="a"), call("", call_id="b")],
    [call("noop", call_id="a"), call("record_write", {"text": "x"}, call_id="b")],
]


async def test_a_bad_set_of_calls_is_refused_before_anything_runs(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for calls in BAD_SETS_OF_CALLS:
        with subtests.test(calls=repr(calls)[:60]):
            stream = worker.stub.ExecuteTools(
                tools_pb2.ExecuteToolsRequest(calls=calls), timeout=20
            )
            assert await refusal(stream.read()) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "REQUEST_INVALID",
            )
            assert worker.metric("peregrine_tool_requests_total", "noop") == 0


BAD_CALLS = [
    tools_pb2.ExecuteToolRequest(),
    tools_pb2.ExecuteToolRequest(call=tools_pb2.ToolCall()),
    tools_pb2.ExecuteToolRequest(call=call("noop", priority=101)),
    tools_pb2.ExecuteToolRequest(call=call("record_write", {"text": "x"})),
]


async def test_a_bad_call_is_refused_with_a_reason(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for request_ in BAD_CALLS:
        with subtests.test(request_=repr(request_)[:60]):
            assert await refusal(worker.stub.ExecuteTool(request_, timeout=20)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "REQUEST_INVALID",
            )


async def test_a_write_runs_with_its_key(worker: Worker, tmp_path: Path) -> None:
    await worker.execute("record_write", {"text": "x"}, idempotency_key="k1")
    assert tools_module.executions(tmp_path / "executions") == ["k1 x"]


DOUBTFUL_WRITES = [
    ("slow_write", {"seconds": 60}, "TOOL_TIMEOUT"),
    ("lost_write", {}, "TOOL_OUTCOME_UNKNOWN"),
]


async def test_a_write_that_may_have_happened_is_in_doubt(
    worker: Worker, subtests: pytest.Subtests
) -> None:
    for tool, arguments, expected in DOUBTFUL_WRITES:
        with subtests.test(tool=repr(tool)[:60]):
            result = await worker.execute(tool, arguments, idempotency_key=f"k {tool}")
            assert result.status == tools_pb2.TOOL_STATUS_IN_DOUBT
            assert result.error.reason == expected


async def test_more_work_than_fits_in_the_time_is_refused_with_a_delay(worker: Worker) -> None:
    slow = worker.stub.ExecuteTool(
        tools_pb2.ExecuteToolRequest(call=call("narrow", {"seconds": 60})), timeout=60
    )
    await eventually(lambda: worker.metric("peregrine_tool_inflight", "narrow") == 1)
    errors: list[grpc.aio.AioRpcError] = []

    async def refused() -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker.execute("narrow", {"seconds": 60})
        errors.append(caught.value)

    await asyncio.gather(*(refused() for _ in range(10)))
    slow.cancel()
    for error in errors:
        understood = from_rpc_error(error)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert understood.reason == "TOOLS_OVERLOADED"
        assert understood.retry_after is not None and understood.retry_after >= 0.1
    assert worker.metric("peregrine_tool_shed_total", "narrow") == 10
    assert text(await worker.execute("echo", {"text": "other tools run"})) == "other tools run"


async def test_no_more_than_the_declared_number_runs_at_once(worker: Worker) -> None:
    running = [
        worker.stub.ExecuteTool(
            tools_pb2.ExecuteToolRequest(call=call("sleep", {"seconds": 0.05})), timeout=20
        )
        for _ in range(30)
    ]
    most = 0.0

    def settled() -> bool:
        nonlocal most
        most = max(most, worker.metric("peregrine_tool_inflight", "sleep"))
        return all(each.done() for each in running)

    await eventually(settled, interval=0.001)
    assert 2 <= most <= 10
    assert worker.metric("peregrine_tool_completed_total", "sleep") == 30


async def test_metrics_and_statistics_tell_what_ran(worker: Worker) -> None:
    assert worker.metric("peregrine_tool_requests_total", "calculator") == 0
    assert worker.metric("peregrine_tool_queue_depth", "calculator") == 0
    assert worker.sample("peregrine_tool_slots", {"pool": "default"}) == 10
    await worker.execute("calculator", {"expression": "1+1"})
    await worker.execute("calculator", {"expression": "1+"})
    await worker.execute("calculator", {})
    for name in ("requests_total", "started_total", "completed_total", "exec_seconds_count"):
        assert worker.metric(f"peregrine_tool_{name}", "calculator") == 2
    stats = await worker.stub.GetExecutionStats(tools_pb2.GetExecutionStatsRequest(), timeout=20)
    (calculator,) = (each for each in stats.tools if each.tool == "calculator")
    assert (calculator.calls, calculator.errors) == (3, 2)
    assert 0 < calculator.execution_time_p50.ToNanoseconds()
    assert stats.registered_tools == len(stats.tools)
    assert stats.max_concurrency == 10


async def test_a_tool_records_metrics_of_its_own(worker: Worker) -> None:
    await worker.execute("measured", {"text": "three little words"})
    assert worker.sample("peregrine_custom_words_sum", {"kind": "test"}) == 3
