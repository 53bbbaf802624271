"""The HTTP API without its streams: bodies, errors, pages, what is kept and what is compressed."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator

import httpx
import jsonschema
import pytest

from peregrine.api.common.v1 import common_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import jsonl
from peregrine.edge.server import EdgeServer
from peregrine.kit.errors import Aborted, AlreadyExists, OutOfRange, Unavailable
from tests.component.cli.fakes import Neighbours
from tests.support import fake_orchestrator as script
from tests.support.edge import edge
from tests.support.fake_orchestrator import CONVERSATION, FakeOrchestrator
from tests.support.ports import free_port

HELLO = {"agent": "assistant", "message": "hello"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def test_a_run_is_started_and_found_again(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    body = HELLO | {
        "conversation_id": CONVERSATION,
        "labels": {"page": "start"},
        "timeout": "1.5s",
        "optimizations": {"eager_tools": False},
    }
    started = await http.post("/v1/runs", json=body)
    assert started.status_code == 201
    run_id = started.json()["run_id"]
    assert started.headers["location"] == f"/v1/runs/{run_id}"
    assert fake.run.input.conversation_id == CONVERSATION
    assert fake.run.input.labels == {"page": "start"}
    assert fake.run.input.timeout.ToNanoseconds() == 1_500_000_000
    assert fake.run.input.optimizations == pb.Optimizations(eager_tools=False)

    found = await http.get(f"/v1/runs/{run_id}")
    assert found.text == jsonl.line(fake.run.run)
    assert found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("where", ["body", "header"])
async def test_the_same_request_is_the_same_run(http: httpx.AsyncClient, where: str) -> None:
    name = uuid.uuid4().hex
    body = HELLO | ({"request_id": name} if where == "body" else {})
    headers = {"Idempotency-Key": name} if where == "header" else {}
    answers = [await http.post("/v1/runs", json=body, headers=headers) for _ in range(2)]
    assert answers[0].json()["run_id"] == answers[1].json()["run_id"]


async def test_a_run_is_cancelled(http: httpx.AsyncClient, fake: FakeOrchestrator) -> None:
    fake.script = [script.started(), script.Gate()]
    run_id = (await http.post("/v1/runs", json=HELLO)).json()["run_id"]
    answer = await http.post(f"/v1/runs/{run_id}/cancel")
    assert answer.json() == {"state": "RUN_STATE_RUNNING"}
    events = await http.get(f"/v1/runs/{run_id}/events")
    assert "RUN_STATE_CANCELLED" in events.text


async def test_lists_are_paged(http: httpx.AsyncClient) -> None:
    started = [(await http.post("/v1/runs", json=HELLO)).json()["run_id"] for _ in range(3)]
    first = (await http.get("/v1/runs", params={"page_size": 2})).json()
    token = first["next_page_token"]
    second = (await http.get("/v1/runs", params={"page_size": 2, "page_token": token})).json()
    listed = [run["run_id"] for run in first["runs"] + second["runs"]]
    assert listed == started[::-1]
    assert second["next_page_token"] == ""
    states = {"state": ["RUN_STATE_FAILED", "RUN_STATE_CANCELLED"]}
    assert (await http.get("/v1/runs", params=states)).json()["runs"] == []


async def test_agents_are_listed(http: httpx.AsyncClient, fake: FakeOrchestrator) -> None:
    fake.agents["assistant"] = pb.Agent(name="assistant", spec=pb.AgentSpec(model="m"), version=1)
    assert [each["name"] for each in (await http.get("/v1/agents")).json()["agents"]] == [
        "assistant"
    ]
    assert (await http.get("/v1/agents/assistant")).json()["spec"]["model"] == "m"


async def test_conversations_are_read_and_deleted(
    http: httpx.AsyncClient, memory: Neighbours
) -> None:
    listed = (await http.get("/v1/conversations")).json()["conversations"]
    assert [each["title"] for each in listed] == ["What is 25 * 17?"]
    one = f"/v1/conversations/{CONVERSATION}"
    assert (await http.get(one)).json()["version"] == 3
    messages = (await http.get(f"{one}/messages")).json()["messages"]
    [use] = messages[1]["message"]["content"]
    assert use["tool_use"]["arguments"] == {"expression": "25 * 17"}
    assert (await http.delete(one)).json() == {"deleted": True}
    assert (await http.delete(one)).json() == {"deleted": False}


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (("GET", "/nothing/here", None), 404, "ROUTE_NOT_FOUND"),
        (("PUT", "/v1/runs", None), 405, "METHOD_NOT_ALLOWED"),
        (("GET", f"/v1/runs/{UNKNOWN}", None), 404, "RUN_NOT_FOUND"),
        (("GET", f"/v1/runs/{UNKNOWN}/events", None), 404, "RUN_NOT_FOUND"),
        (("GET", f"/v1/conversations/{UNKNOWN}", None), 404, "CONVERSATION_NOT_FOUND"),
        (("GET", "/v1/runs/no-uuid", None), 400, "REQUEST_INVALID"),
        (("GET", f"/v1/runs/{UNKNOWN}/events?after=-1", None), 400, "REQUEST_INVALID"),
        (("GET", "/v1/runs?page_size=201", None), 400, "REQUEST_INVALID"),
        (("POST", "/v1/runs", b"{"), 400, "REQUEST_INVALID"),
        (("POST", "/v1/runs", b'{"agent":"a"}'), 400, "REQUEST_INVALID"),
        (("POST", "/v1/runs", b'{"agent":"a","message":"\\ud800"}'), 400, "REQUEST_INVALID"),
        (("POST", "/v1/chat/stream", b'{"agent":"a","message":1}'), 400, "REQUEST_INVALID"),
        (("POST", "/v1/chat/stream", b"[" * 100_000), 400, "REQUEST_INVALID"),
        (("POST", "/v1/runs", b" " * (1024 * 1024 + 1)), 413, "BODY_TOO_LARGE"),
    ],
)
async def test_an_error_is_a_problem_with_its_reason(
    http: httpx.AsyncClient, request_: tuple[str, str, bytes | None], status: int, reason: str
) -> None:
    method, path, body = request_
    headers = {"Content-Type": "application/json"}
    answer = await http.request(method, path, content=body, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert problem["type"].endswith(reason) and problem["title"] and problem["detail"]
    if reason == "METHOD_NOT_ALLOWED":
        assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Unavailable("away", reason="POSTGRES_UNAVAILABLE", retry_after=0.0), 503, "0"),
        (AlreadyExists("another body", reason="REQUEST_ID_REUSED"), 409, None),
        (Aborted("just now", reason="REQUEST_ID_BUSY", retry_after=0.2), 409, "1"),
        (OutOfRange("too old", reason="EVENTS_COMPACTED"), 410, None),
        (ValueError("a secret"), 500, None),
    ],
)
async def test_what_a_service_says_is_said_on(
    http: httpx.AsyncClient,
    fake: FakeOrchestrator,
    error: Exception,
    status: int,
    retry_after: str | None,
) -> None:
    fake.refuse = error
    for path in ("/v1/runs", "/v1/chat/stream"):
        answer = await http.post(path, json=HELLO)
        assert answer.status_code == status
        assert answer.json()["reason"] == getattr(error, "reason", "INTERNAL_ERROR")
        assert answer.headers.get("retry-after") == retry_after
        assert "secret" not in answer.text


async def test_wrong_fields_are_all_named(http: httpx.AsyncClient) -> None:
    body = {"agent": "", "messages": "x", "timeout": "soon", "labels": {"a": 1}}
    problem = (await http.post("/v1/runs", json=body)).json()
    fields = {each["field"] for each in problem["violations"]}
    assert fields == {"agent", "message", "messages", "timeout", "labels.a"}


async def test_a_body_without_a_length_is_bounded_too(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536
            await asyncio.sleep(0)

    headers = {"Content-Type": "application/json"}
    try:
        answer = await http.post("/v1/runs", content=endless(), headers=headers)
    except (httpx.WriteError, httpx.ReadError):
        return  # the connection was closed while the body was still coming
    assert answer.status_code == 413


async def test_json_is_compressed_above_a_kilobyte_and_only_there(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    small = await http.get("/v1/agents")
    assert "content-encoding" not in small.headers
    spec = pb.AgentSpec(model="m", system_prompt="Be brief. " * 200)
    fake.agents["wordy"] = pb.Agent(name="wordy", spec=spec)
    large = await http.get("/v1/agents/wordy")
    assert large.headers["content-encoding"] == "gzip"
    assert int(large.headers["content-length"]) < 1024
    assert large.text == jsonl.line(fake.agents["wordy"])
    as_it_is = await http.get("/v1/agents/wordy", headers={"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in as_it_is.headers
    assert as_it_is.headers["vary"] == "Accept-Encoding"


async def test_the_page_is_kept_as_long_as_it_is_the_same(http: httpx.AsyncClient) -> None:
    page = await http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-encoding"] == "gzip"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    again = await http.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == page.headers["etag"]

    name = page.text.partition('src="')[2].partition('"')[0]
    assert name.startswith("/app.js?v=")
    forever = await http.get(name)
    assert "immutable" in forever.headers["cache-control"]
    assert (await http.get("/app.js")).headers["cache-control"] == "no-cache"
    assert (await http.get("/app.js?v=older")).headers["cache-control"] == "no-cache"
    assert "://" not in page.text.replace("http://www.w3.org/2000/svg", "")


async def test_another_name_than_loopbacks_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/runs", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["reason"]) == (421, "HOST_NOT_ALLOWED")
    assert (await http.get("/v1/runs", headers={"Host": "localhost:1234"})).status_code == 200
    assert (await http.get("/healthz", headers={"Host": "10.0.0.7"})).status_code == 200


async def test_a_page_of_another_origin_changes_nothing(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    for origin in ("https://evil.example", "null"):
        answer = await http.post("/v1/runs", json=HELLO, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
    form = await http.post(
        "/v1/runs", content=json.dumps(HELLO), headers={"Content-Type": "text/plain"}
    )
    assert form.status_code == 400
    assert fake.runs == {}
    own = str(http.base_url).rstrip("/")
    assert (await http.post("/v1/runs", json=HELLO, headers={"Origin": own})).status_code == 201


async def test_it_is_ready_only_when_its_backends_are(memory: Neighbours) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with edge(orchestrator=memory.target, memory=memory.target) as one:
        async with httpx.AsyncClient(base_url=one.url) as http:
            assert (await http.get("/readyz")).status_code == 200
            one.ready = False
            assert (await http.get("/readyz")).status_code == 503
            assert (await http.get("/healthz")).status_code == 200
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), edge(orchestrator=nobody, memory=memory.target):
            pytest.fail("it is ready without an orchestrator")


async def test_the_trace_of_the_caller_goes_on(
    http: httpx.AsyncClient, server: EdgeServer, fake: FakeOrchestrator
) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    await http.post("/v1/runs", json=HELLO, headers={"traceparent": trace})
    assert fake.users == ["local"]


async def test_the_document_describes_every_route_and_every_event(
    http: httpx.AsyncClient,
) -> None:
    document = (await http.get("/openapi.json")).json()
    operations = {
        (method.upper(), path) for path, each in document["paths"].items() for method in each
    }
    assert {
        ("POST", "/v1/runs"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/{run_id}"),
        ("GET", "/v1/runs/{run_id}/events"),
        ("POST", "/v1/runs/{run_id}/cancel"),
        ("POST", "/v1/chat/stream"),
        ("GET", "/v1/agents"),
        ("GET", "/v1/agents/{name}"),
        ("GET", "/v1/conversations"),
        ("GET", "/v1/conversations/{conversation_id}"),
        ("DELETE", "/v1/conversations/{conversation_id}"),
        ("GET", "/v1/conversations/{conversation_id}/messages"),
    } == operations

    schema = {"$ref": "#/components/schemas/RunEvent", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    for event in (
        script.tool_started("a", "calculator", '{"expression":[1,{"x":null}]}'),
        script.tool_finished("a", "calculator", failed="no"),
        script.truncated(7),
        script.finished(
            "425",
            error=common_pb2.Error(code=3, reason="R", metadata={"a": "b"}),
            waterfall=pb.Waterfall(spans=[script.span(pb.SPAN_KIND_TOOL, "t", 0, 1.5, 1)]),
        ),
    ):
        event.create_time.GetCurrentTime()
        validator.validate(jsonl.plain(event))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"sequence": "1", "epoch": 1})
