"""What is another user's or another tenant's is not there: over gRPC, at the edge, in the tables.

Ada and Bob are of one tenant; Eve's name is Ada, too, in another.
"""

import uuid
from typing import Any

import httpx
import pytest

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.common.v1 import common_pb2
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.errors import NotFound
from peregrine.kit.postgres import NO_TENANT, Database
from tests.component.identity.conftest import ADA, BOB, EVE, Whole
from tests.support import stack
from tests.support.edge import parse
from tests.support.identity import bearer, signed

OTHERS = ("bob", "eve")


def shows(whole: Whole, name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {whole.keys[name]}"}


async def adas_run(whole: Whole) -> tuple[str, str]:
    """A finished run of Ada's: its id, and its conversation's."""
    apply = whole.of("AgentService/ApplyAgent")
    for user in ("ada", "eve"):
        await apply(bearer(whole.keys[user]), agent=stack.agent())
    body = {"agent": stack.AGENT, "message": "What is 25 * 17?"}
    answer = await whole.http.post("/v1/chat/stream", json=body, headers=shows(whole, "ada"))
    events = parse(answer.content)
    assert events[-1].event == "run_finished", answer.text
    started = events[0].data["run_started"]
    return started["run_id"], started["conversation_id"]


async def not_found(call: Any, reason: str) -> None:
    with pytest.raises(NotFound) as caught:
        await call
    assert caught.value.reason == reason


async def test_at_the_edge_anothers_run_and_conversation_are_not_there(whole: Whole) -> None:
    run, conversation = await adas_run(whole)
    of_run = [
        ("GET", f"/v1/runs/{run}", None),
        ("GET", f"/v1/runs/{run}/events", None),
        ("POST", f"/v1/runs/{run}/cancel", None),
    ]
    body = {"agent": stack.AGENT, "message": "and then?", "conversation_id": conversation}
    of_conversation = [
        ("GET", f"/v1/conversations/{conversation}", None),
        ("GET", f"/v1/conversations/{conversation}/messages", None),
        ("POST", "/v1/runs", body),
        ("POST", "/v1/chat/stream", body),
    ]

    async def ask(name: str, method: str, path: str, body: Any = None) -> httpx.Response:
        return await whole.http.request(method, path, json=body, headers=shows(whole, name))

    for other in OTHERS:
        for reason, requests in (
            ("RUN_NOT_FOUND", of_run),
            ("CONVERSATION_NOT_FOUND", of_conversation),
        ):
            for method, path, sent in requests:
                answer = await ask(other, method, path, sent)
                found = (answer.status_code, answer.json()["reason"])
                assert found == (404, reason), (other, method, path)
        gone = await ask(other, "DELETE", f"/v1/conversations/{conversation}")
        assert gone.json() == {"deleted": False}
        assert (await ask(other, "GET", "/v1/runs")).json()["runs"] == []
        assert (await ask(other, "GET", "/v1/conversations")).json()["conversations"] == []
        listed = f"/v1/runs?conversation_id={conversation}"
        assert (await ask(other, "GET", listed)).json()["runs"] == []
    assert [each["run_id"] for each in (await ask("ada", "GET", "/v1/runs")).json()["runs"]] == [
        run
    ]
    messages = await ask("ada", "GET", f"/v1/conversations/{conversation}/messages")
    assert len(messages.json()["messages"]) >= 2


async def test_over_grpc_anothers_run_is_not_there(whole: Whole) -> None:
    run, conversation = await adas_run(whole)
    for other in OTHERS:
        for name in ("WatchRun", "GetRun", "CancelRun"):
            for metadata in (bearer(whole.keys[other]), signed({"bob": BOB, "eve": EVE}[other])):
                call = whole.of(f"OrchestratorService/{name}")(metadata, run_id=run)
                await not_found(call, "RUN_NOT_FOUND")
        given = pb.RunInput(agent=stack.AGENT, message="hi", conversation_id=conversation)
        for name in ("StartRun", "Chat"):
            call = whole.of(f"OrchestratorService/{name}")(bearer(whole.keys[other]), input=given)
            await not_found(call, "CONVERSATION_NOT_FOUND")


async def test_anothers_conversation_and_profile_are_not_in_memory(whole: Whole) -> None:
    _, conversation = await adas_run(whole)
    of = whole.of
    profile = common_pb2.Json(utf8=b'{"likes":"peregrines"}')
    await of("MemoryService/PutUserProfile")(signed(ADA), data=profile)
    begin = {"conversation_id": conversation, "message": "hi", "request_id": "r"}
    said = common_pb2.Message(
        role=common_pb2.ROLE_ASSISTANT, content=[common_pb2.ContentBlock(text="x")]
    )
    for who in (BOB, EVE):
        for name, fields in (
            ("BeginTurn", begin),
            ("AppendMessages", {"conversation_id": conversation, "messages": [said]}),
            ("LoadContext", {"conversation_id": conversation}),
            ("GetConversation", {"conversation_id": conversation}),
            ("ListMessages", {"conversation_id": conversation}),
        ):
            call = of(f"MemoryService/{name}")(signed(who), **fields)
            await not_found(call, "CONVERSATION_NOT_FOUND")
        theirs = await of("MemoryService/GetUserProfile")(signed(who))
        assert theirs.profile.data.utf8 in (b"", b"{}")
        assert (await of("MemoryService/DeleteUser")(signed(who))).deleted_conversations == 0
    own = await of("MemoryService/GetUserProfile")(signed(ADA))
    assert own.profile.data.utf8 == profile.utf8
    assert await of("MemoryService/GetConversation")(signed(ADA), conversation_id=conversation)


async def test_anothers_cache_entry_is_a_miss_and_stays(whole: Whole) -> None:
    of = whole.of

    def key(scope: "common_pb2.Scope") -> cache_pb2.Key:
        return cache_pb2.Key(namespace="ns", key=b"k", scope=scope)

    own, shared = key(common_pb2.SCOPE_USER), key(common_pb2.SCOPE_TENANT)
    for each, value in ((own, b"ada's"), (shared, b"acme's")):
        assert (await of("CacheService/Set")(signed(ADA), key=each, value=value)).stored
    for who, each in ((BOB, own), (EVE, own), (EVE, shared)):
        found = await of("CacheService/Get")(signed(who), key=each)
        assert not found.HasField("entry"), (who, each)
        several = await of("CacheService/BatchGet")(signed(who), keys=[each])
        assert not several.results[0].HasField("entry")
        assert not (await of("CacheService/Delete")(signed(who), key=each)).deleted
    assert (await of("CacheService/Get")(signed(BOB), key=shared)).entry.value == b"acme's"
    assert (await of("CacheService/Get")(signed(ADA), key=own)).entry.value == b"ada's"


async def test_anothers_generation_is_not_there(whole: Whole) -> None:
    prompt = llm_gateway_pb2.Prompt(
        model="claude-sonnet-5-5",
        messages=[
            common_pb2.Message(
                role=common_pb2.ROLE_USER, content=[common_pb2.ContentBlock(text="hello")]
            )
        ],
        max_output_tokens=50,
    )
    generated = await whole.of("LlmService/Generate")(signed(ADA), prompt=prompt)
    name = generated.events[0].started.generation_id
    assert await whole.of("LlmService/WatchGeneration")(signed(ADA), generation_id=name)
    for who in (BOB, EVE):
        for method in ("WatchGeneration", "CancelGeneration"):
            call = whole.of(f"LlmService/{method}")(signed(who), generation_id=name)
            await not_found(call, "GENERATION_NOT_FOUND")


async def test_what_a_tenant_shares_is_not_another_tenants(whole: Whole) -> None:
    """Agents, tools and keys: Bob sees them, Eve does not, nor can she change them."""
    of, acme, umbrella = whole.of, bearer(whole.keys["bob"]), bearer(whole.keys["eve"])
    await of("AgentService/ApplyAgent")(acme, agent=stack.agent("secret-agent"))
    tool = tools_pb2.Tool(
        name="secret_tool",
        description="x",
        effect=common_pb2.EFFECT_READ,
        input_schema=common_pb2.Json(utf8=b'{"type":"object"}'),
        http=tools_pb2.HttpBackend(method="GET", url="https://example.org/"),
    )
    await of("ToolService/ApplyTool")(signed(BOB), tool=tool)

    agents = await of("AgentService/ListAgents")(umbrella)
    assert "secret-agent" not in [each.name for each in agents.agents]
    await not_found(of("AgentService/GetAgent")(umbrella, name="secret-agent"), "AGENT_NOT_FOUND")
    assert not (await of("AgentService/DeleteAgent")(umbrella, name="secret-agent")).deleted
    assert await of("AgentService/GetAgent")(bearer(whole.keys["ada"]), name="secret-agent")

    names = ["secret_tool"]
    assert len((await of("ToolService/ListTools")(signed(ADA), names=names)).tools) == 1
    assert len((await of("ToolService/ListTools")(signed(EVE), names=names)).tools) == 0
    assert not (await of("ToolService/DeleteTool")(signed(EVE), name="secret_tool")).deleted

    key_id = whole.keys["ada"].split("_")[1]
    listed = await of("IdentityService/ListApiKeys")(umbrella)
    assert {each.for_tenant for each in listed.keys} == {"umbrella"}
    listed = await of("IdentityService/ListApiKeys")(acme)
    assert key_id in {each.key_id for each in listed.keys}
    await not_found(of("IdentityService/RevokeApiKey")(umbrella, key_id=key_id), "KEY_NOT_FOUND")
    assert await of("OrchestratorService/ListRuns")(bearer(whole.keys["ada"]))


async def test_a_request_id_of_another_user_is_another_request(whole: Whole) -> None:
    run, _ = await adas_run(whole)
    given = pb.RunInput(agent=stack.AGENT, message="hi", request_id="the-same")
    start = whole.of("OrchestratorService/StartRun")
    for user in ("ada", "bob"):
        await start(bearer(whole.keys[user]), input=given)
    runs = {
        (await start(bearer(whole.keys[user]), input=given)).run.run_id
        for user in ("ada", "bob", "eve")
    }
    assert len(runs) == 3 and run not in runs


async def test_the_table_of_keys_shows_one_row_to_who_names_it_and_none_to_others(
    whole: Whole,
) -> None:
    count = "SELECT count(*) FROM orchestrator.api_keys"
    name = "SELECT set_config('peregrine.key_id', $1, true)"
    change = "UPDATE orchestrator.api_keys SET name = 'x'"
    async with await Database.connect(whole.dsn, size=1) as database:
        async with database.transaction(NO_TENANT, user="") as conn:
            assert await conn.fetchval("count", count) == 0
            await conn.execute("name", name, whole.keys["ada"].split("_")[1])
            assert await conn.fetchval("count", count) == 1
            assert await conn.execute("change", change) == "UPDATE 0"
            await conn.execute("name", name, str(uuid.uuid4()))
            assert await conn.fetchval("count", count) == 0
        async with database.transaction("umbrella", user="") as conn:
            assert await conn.fetchval("count", count) == 1
            assert await conn.execute("change", change) == "UPDATE 1"
