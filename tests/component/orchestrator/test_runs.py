"""What a run does: answers, tools, limits, failures."""

import asyncio

import grpc
import pytest

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.memory.v1 import memory_pb2_grpc as memory_rpc
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.context import Identity
from peregrine.kit.errors import from_rpc_error
from tests.support import stack
from tests.support.eventually import eventually
from tests.support.stack import Stack

QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"


def script(peregrine: Stack, *turns: dict[str, object], **more: object) -> None:
    peregrine.simulator.state.scripts.add({"turns": list(turns), **more})


def tool(name: str, /, **arguments: object) -> dict[str, object]:
    return {"type": "tool_use", "name": name, "input": arguments}


def turn(*blocks: dict[str, object], **more: object) -> dict[str, object]:
    return {"blocks": list(blocks), **more}


async def test_a_question_of_three_parts_uses_three_tools_and_answers_all(
    peregrine: Stack,
) -> None:
    events = await peregrine.chat(QUESTION)
    stack.check_log(events)
    started = stack.of(events, "tool_call_started")
    assert {each.tool for each in started} == {"calculator", "current_time", "knowledge_search"}
    kinds = stack.kinds(events)
    last_start = max(i for i, kind in enumerate(kinds) if kind == "tool_call_started")
    assert kinds.index("step_finished") > kinds.index("tool_call_started"), "they start eagerly"
    assert kinds.count("tool_call_finished") == 3 and last_start < kinds.index("run_finished")
    answer = stack.text(events)
    assert "425" in answer and "refund" in answer.lower()
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED
    assert finished.text in answer
    assert finished.usage.output_tokens > 0
    assert any(each.simulated for each in stack.of(events, "step_started"))


async def test_the_critical_path_adds_up_to_the_wall_time(peregrine: Stack) -> None:
    waterfall = (await peregrine.chat(QUESTION))[-1].run_finished.waterfall
    assert waterfall.critical_path_ms == pytest.approx(waterfall.wall_ms, rel=0.02, abs=2)
    kinds = {span.kind for span in waterfall.spans}
    assert {
        pb.SPAN_KIND_CONTEXT,
        pb.SPAN_KIND_FIRST_TOKEN,
        pb.SPAN_KIND_TOOL,
        pb.SPAN_KIND_PERSIST,
    } <= kinds


async def test_the_next_turn_knows_what_was_said_before(peregrine: Stack) -> None:
    first = await peregrine.chat("My name is Ada.")
    conversation = stack.of(first, "run_started")[0].conversation_id
    second = await peregrine.chat("What is my name?", conversation_id=conversation)
    assert "Ada" in stack.text(second)


async def test_eager_tools_start_and_finish_while_the_model_still_writes(
    peregrine: Stack,
) -> None:
    calls = [tool("calculator", expression=f"{n} + 1") for n in range(3)]
    # Much later than all three have ended, however slow the machine is.
    last = {"type": "text", "tokens": 1, "delay_before": 60}
    script(peregrine, turn(*calls, last), match={"contains": "eager"})
    run = await peregrine.start("eager, please")
    events: list[pb.RunEvent] = []
    cancel = pb.CancelRunRequest(run_id=run.run_id)
    watch = pb.WatchRunRequest(run_id=run.run_id)
    async for response in peregrine.first.runs.WatchRun(watch, timeout=50):
        seen = stack.kinds(events).count("tool_call_finished")
        events += response.events
        if seen < 3 <= stack.kinds(events).count("tool_call_finished"):
            await peregrine.first.runs.CancelRun(cancel, timeout=10)
    assert [each.eager for each in stack.of(events, "tool_call_started")] == [True] * 3
    assert "step_finished" not in stack.kinds(events)
    assert events[-1].run_finished.state == pb.RUN_STATE_CANCELLED


async def test_tools_of_one_step_run_at_the_same_time(peregrine: Stack) -> None:
    await peregrine.apply(stack.agent(tools=["rendezvous"]))
    calls = [tool("rendezvous", parties=3, place="here", party=n) for n in range(3)]
    script(peregrine, turn(*calls), match={"contains": "meet"})
    events = await peregrine.chat("meet")
    results = stack.of(events, "tool_call_finished")
    assert [each.status for each in results] == [pb.TOOL_CALL_STATUS_SUCCEEDED] * 3, (
        "each waits for the other two"
    )


async def test_switched_off_tools_start_one_after_the_other_when_the_model_has_ended(
    peregrine: Stack,
) -> None:
    off = pb.Optimizations(eager_tools=False, parallel_tools=False)
    script(
        peregrine,
        turn(*(tool("calculator", expression=f"{n} + 1") for n in range(3))),
        match={"contains": "slow"},
    )
    events = await peregrine.chat("slow, please", optimizations=off)
    kinds = [kind for kind in stack.kinds(events) if kind.startswith(("tool", "step_finished"))]
    assert kinds[:7] == ["step_finished"] + ["tool_call_started", "tool_call_finished"] * 3
    assert not any(each.eager for each in stack.of(events, "tool_call_started"))


async def test_without_streaming_the_text_comes_when_the_call_has_ended(peregrine: Stack) -> None:
    script(peregrine, turn({"type": "text", "tokens": 40}), match={"contains": "whole"})
    off = pb.Optimizations(streaming=False)
    events = await peregrine.chat("whole", optimizations=off)
    assert stack.kinds(events).count("text_delta") == 1
    assert stack.text(events) == events[-1].run_finished.text


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("calculator", {}, "ARGUMENTS_INVALID"),
        ("calculator", {"expression": "what?"}, "EXPRESSION_INVALID"),
        ("raises", {}, "TOOL_FAILED"),
        ("hang", {}, "TOOL_TIMEOUT"),
        ("no_such_tool", {}, "TOOL_NOT_FOUND"),
    ],
)
async def test_a_failing_tool_is_an_event_and_the_run_goes_on(
    peregrine: Stack, name: str, arguments: dict[str, object], reason: str
) -> None:
    await peregrine.apply(stack.agent(tools=["calculator", "raises", "hang"]))
    script(peregrine, turn(tool(name, **arguments)), match={"contains": "break"})
    events = await peregrine.chat("break it")
    (result,) = stack.of(events, "tool_call_finished")
    assert result.status == pb.TOOL_CALL_STATUS_FAILED
    assert result.error.reason == reason
    assert result.content, "the model is told"
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED
    assert "425" in stack.text(await peregrine.chat("What is 25 * 17?")), "the service goes on"


async def test_arguments_that_are_not_json_are_a_failed_result(peregrine: Stack) -> None:
    block = {"type": "tool_use", "name": "calculator", "json": '{"expression": "1 +'}
    script(peregrine, turn(block), match={"contains": "garble"})
    events = await peregrine.chat("garble")
    (result,) = stack.of(events, "tool_call_finished")
    assert result.error.reason == "ARGUMENTS_INVALID"
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED


async def test_the_last_step_must_answer_without_tools(peregrine: Stack) -> None:
    limits = pb.AgentLimits(max_steps=3)
    await peregrine.apply(stack.agent(tools=["calculator"], limits=limits))
    again = turn(tool("calculator", expression="1 + 1"))
    script(peregrine, again, again, match={"contains": "forever"})
    events = await peregrine.chat("forever")
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED
    assert finished.steps == 3 and finished.truncated
    assert finished.text


async def test_a_run_that_uses_up_its_tokens_fails_and_says_so(peregrine: Stack) -> None:
    limits = pb.AgentLimits(max_total_tokens=5)
    await peregrine.apply(stack.agent(tools=["calculator"], limits=limits))
    events = await peregrine.chat("What is 25 * 17?")
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_FAILED
    assert finished.error.reason == "TOKEN_LIMIT_REACHED"


async def test_a_model_that_refuses_the_request_fails_the_run_with_its_reason(
    peregrine: Stack,
) -> None:
    script(peregrine, {"error": {"status": 400, "message": "no"}}, match={"contains": "bad"})
    events = await peregrine.chat("bad")
    stack.check_log(events)
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_FAILED
    assert finished.error.reason == "MODEL_REQUEST_REFUSED"


async def test_a_model_stream_that_breaks_off_is_made_again_and_readers_are_told(
    peregrine: Stack,
) -> None:
    blocks = [{"type": "text", "tokens": 60}]
    broken = turn(*blocks, cut={"after_tokens": 20})
    script(peregrine, {"attempts": [broken, turn(*blocks)]}, match={"contains": "tell"})
    events = await peregrine.chat("tell me")
    stack.check_log(events)
    assert "generation_restarted" in stack.kinds(events)
    assert stack.text(events) == events[-1].run_finished.text
    assert events[-1].run_finished.state == pb.RUN_STATE_SUCCEEDED


async def test_a_run_ends_at_its_deadline_and_so_does_the_models_call(peregrine: Stack) -> None:
    script(
        peregrine,
        turn({"type": "text", "tokens": 50}, stalls=[{"after_tokens": 5, "seconds": 30}]),
        match={"contains": "stall"},
    )
    given = pb.RunInput(agent=stack.AGENT, message="stall")
    given.timeout.FromMilliseconds(300)
    call = peregrine.first.runs.Chat(pb.ChatRequest(input=given), timeout=30)
    events = [event async for response in call for event in response.events]
    stack.check_log(events)
    assert events[-1].run_finished.error.reason == "RUN_DEADLINE_EXCEEDED"
    (record,) = peregrine.simulator.state.records
    await eventually(lambda: record.ended == "client_closed")


async def test_the_same_request_id_is_the_same_run(peregrine: Stack) -> None:
    first = await peregrine.chat("Hello there", request_id="once")
    second = await peregrine.chat("Hello there", request_id="once")
    assert [e.SerializeToString() for e in first] == [e.SerializeToString() for e in second]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peregrine.chat("Something else", request_id="once")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert from_rpc_error(refused.value).reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    ("given", "code", "reason"),
    [
        ({"message": ""}, grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_EMPTY"),
        ({"message": " \n"}, grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_EMPTY"),
        ({"message": "x" * 262145}, grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LONG"),
        ({"agent": "nobody"}, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        ({"agent": "No Body;"}, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        ({"agent": ""}, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        ({"conversation_id": "17"}, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
        (
            {"conversation_id": "00000000-0000-4000-8000-000000000000"},
            grpc.StatusCode.NOT_FOUND,
            "CONVERSATION_NOT_FOUND",
        ),
        ({"request_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID"),
    ],
)
async def test_bad_input_is_refused_with_a_reason_and_leaves_no_run(
    peregrine: Stack, given: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    fields = {"agent": stack.AGENT, "message": "hello"} | given
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peregrine.first.runs.StartRun(
            pb.StartRunRequest(input=pb.RunInput(**fields)), timeout=10
        )
    assert refused.value.code() is code
    assert from_rpc_error(refused.value).reason == reason
    listed = await peregrine.first.runs.ListRuns(pb.ListRunsRequest(), timeout=10)
    assert not listed.runs


async def test_a_request_id_of_a_refused_run_is_free_again(peregrine: Stack) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(grpc.aio.AioRpcError):
        await peregrine.start("hello", request_id="mine", conversation_id=missing)
    run = await peregrine.start("hello", request_id="mine")
    stack.check_log(await peregrine.watch(run.run_id))


async def test_a_body_over_the_limit_is_refused_and_the_service_goes_on(peregrine: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await peregrine.start("x" * (17 * 1024 * 1024))
    assert from_rpc_error(refused.value).reason in ("MESSAGE_TOO_LONG", "MESSAGE_TOO_LARGE")
    assert (await peregrine.chat("hello"))[-1].HasField("run_finished")


async def test_an_unforeseen_stop_of_a_neighbour_is_a_failed_run_not_a_lost_one(
    peregrine: Stack,
) -> None:
    await peregrine.apply(stack.agent(tools=[]))
    script(
        peregrine,
        {"error": {"status": 529}},
        match={"contains": "overloaded"},
    )
    events = await asyncio.wait_for(peregrine.chat("overloaded"), 60)
    assert events[-1].run_finished.state == pb.RUN_STATE_FAILED
    assert events[-1].run_finished.error.reason == "MODEL_OVERLOADED"


async def test_an_answer_that_was_remembered_otherwise_is_given_and_said_to_be(
    peregrine: Stack,
) -> None:
    stalled = turn({"type": "text", "tokens": 9}, stalls=[{"after_tokens": 3, "seconds": 0.5}])
    script(peregrine, stalled, match={"contains": "twice"})
    run = await peregrine.start("twice", request_id="turn-7")
    said = common.Message(
        role=common.ROLE_ASSISTANT, content=[common.ContentBlock(text="said by a lost owner")]
    )
    async with grpc.aio.insecure_channel(peregrine.environ["PEREGRINE_MEMORY_TARGET"]) as channel:
        await memory_rpc.MemoryServiceStub(channel).AppendMessages(
            memory.AppendMessagesRequest(
                conversation_id=run.conversation_id, messages=[said], request_id="turn-7:end"
            ),
            timeout=10,
            metadata=peregrine.on_behalf_of(),
        )
    events = await peregrine.watch(run.run_id)
    stack.check_log(events)
    finished = events[-1].run_finished
    assert finished.state == pb.RUN_STATE_SUCCEEDED
    assert [(each.what, each.reason) for each in finished.degradations] == [
        ("memory", "REQUEST_ID_REUSED")
    ]


async def test_what_a_run_came_to_can_be_asked_for(peregrine: Stack) -> None:
    events = await peregrine.chat("Hello", labels={"ticket": "7"})
    run_id = stack.of(events, "run_started")[0].run_id
    got = await peregrine.first.runs.GetRun(pb.GetRunRequest(run_id=run_id), timeout=10)
    assert got.run.state == pb.RUN_STATE_SUCCEEDED
    assert got.run.last_sequence == len(events)
    assert got.run.labels == {"ticket": "7"}
    assert got.run.HasField("finish_time")


async def test_runs_are_listed_newest_first_page_by_page(peregrine: Stack) -> None:
    started = [(await peregrine.start(f"Hello {n}")).run_id for n in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = await peregrine.first.runs.ListRuns(
            pb.ListRunsRequest(page_size=2, page_token=token), timeout=10
        )
        seen += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert seen == started[::-1]
    for run_id in started:
        await peregrine.watch(run_id)


async def test_another_users_run_does_not_exist(peregrine: Stack) -> None:
    run = await peregrine.start("Hello")
    somebody = peregrine.on_behalf_of(Identity("local", "somebody"))
    other = peregrine.on_behalf_of(Identity("other", "local"))
    runs = peregrine.first.runs
    for metadata in (somebody, other):
        for call in (
            runs.GetRun(pb.GetRunRequest(run_id=run.run_id), metadata=metadata, timeout=10),
            runs.CancelRun(pb.CancelRunRequest(run_id=run.run_id), metadata=metadata, timeout=10),
            runs.WatchRun(
                pb.WatchRunRequest(run_id=run.run_id), metadata=metadata, timeout=10
            ).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert from_rpc_error(refused.value).reason == "RUN_NOT_FOUND"
    await peregrine.watch(run.run_id)


async def test_the_agents_metrics_count_a_run(peregrine: Stack) -> None:
    await peregrine.chat("What is 25 * 17?")
    server = peregrine.first.server
    assert server is not None and server._registry is not None
    sample = server._registry.get_sample_value

    def counted() -> bool:
        labels = {"agent_id": stack.AGENT, "status": "success"}
        tools = labels | {"tool_name": "calculator"}
        return (
            sample("ai_agent_requests_total", labels) == 1
            and sample("ai_tool_executions_total", tools) == 1
            and sample("ai_agent_memory_usage_bytes", {"agent_id": stack.AGENT}) == 0
            and sample("peregrine_tool_calls_total", {"pool": "default"}) == 1
            and sample("peregrine_tool_calls_cached_total", {"pool": "default"}) == 0
            and sample("peregrine_tool_calls_waiting", {"pool": "default"}) == 0
        )

    await eventually(counted)
