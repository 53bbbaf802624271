"""Who asks, at the edge: every route, without a credential, with bad ones, with a good one."""

from collections.abc import AsyncIterator

import httpx
import pytest

from peregrine.edge import answers, service
from peregrine.edge.server import EdgeServer
from peregrine.kit.context import Identity
from peregrine.kit.settings import SettingsError
from tests.component.cli.fakes import Neighbours
from tests.support.edge import edge
from tests.support.fake_orchestrator import CONVERSATION, FakeOrchestrator

KEY = "pk_0123456789abcdef_" + "s" * 43
ADA = Identity("acme", "ada")


@pytest.fixture
async def server(fake: FakeOrchestrator, memory: Neighbours) -> AsyncIterator[EdgeServer]:
    fake.identities.keys[KEY] = ADA
    async with edge(
        orchestrator=fake.target, memory=memory.target, PEREGRINE_AUTH_REQUIRED="true"
    ) as server:
        yield server


async def routes(http: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Every (method, path) that the document names, and one that is not there."""
    document = (await http.get("/openapi.json")).json()
    found = [
        (method.upper(), path.format(run_id=CONVERSATION, conversation_id=CONVERSATION, name="x"))
        for path, methods in document["paths"].items()
        for method in methods
    ]
    assert len(found) >= 12
    return [*found, ("GET", "/v1/nothing"), ("GET", "/nothing"), ("POST", "/v1/runs/")]


@pytest.mark.parametrize(
    ("header", "reason", "challenge"),
    [
        (None, "CREDENTIALS_MISSING", 'Bearer realm="peregrine"'),
        ("", "CREDENTIALS_MISSING", 'Bearer realm="peregrine"'),
        ("Basic YTpi", "CREDENTIALS_MISSING", 'Bearer realm="peregrine"'),
        (f"Bearer {KEY} {KEY}", "CREDENTIALS_MISSING", 'Bearer realm="peregrine"'),
        (f"Bearer {KEY}x", "CREDENTIALS_INVALID", 'error="invalid_token"'),
        ("Bearer x", "CREDENTIALS_INVALID", 'error="invalid_token"'),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "CREDENTIALS_INVALID", 'error="invalid_token"'),
    ],
)
async def test_no_route_answers_who_is_not_known(
    http: httpx.AsyncClient,
    fake: FakeOrchestrator,
    header: str | None,
    reason: str,
    challenge: str,
) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path in await routes(http):
        body = {"agent": "assistant", "message": "hi"} if method == "POST" else None
        answer = await http.request(method, path, headers=headers, json=body)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["reason"] == reason
        assert challenge in answer.headers["WWW-Authenticate"]
    assert fake.calls == []


async def test_a_key_opens_every_route_and_is_shown_to_the_orchestrator_once(
    http: httpx.AsyncClient, fake: FakeOrchestrator
) -> None:
    for method, path in await routes(http):
        body = {"agent": "assistant", "message": "hi"} if method == "POST" else None
        headers = {"Authorization": f"bearer {KEY}"}
        answer = await http.request(method, path, headers=headers, json=body)
        assert answer.status_code not in (401, 403), (method, path, answer.text)
    assert fake.identities.exchanges == 1
    assert fake.calls


async def test_the_page_the_document_and_the_probes_are_for_everybody(
    http: httpx.AsyncClient,
) -> None:
    for path in (*service.OPEN_PATHS, *answers.page_files()):
        assert (await http.get(path)).status_code == 200, path


async def test_a_credential_is_never_named_in_an_answer(http: httpx.AsyncClient) -> None:
    secret = "pk_0123456789abcdef_" + "t" * 43
    answer = await http.get("/v1/runs", headers={"Authorization": f"Bearer {secret}"})
    assert "t" * 43 not in answer.text + str(answer.headers)


async def test_while_no_orchestrator_can_be_asked_nobody_is_taken_for_anybody(
    fake: FakeOrchestrator, memory: Neighbours
) -> None:
    async with edge(
        orchestrator=fake.target, memory=memory.target, PEREGRINE_AUTH_REQUIRED="true"
    ) as server:
        fake.identities.keys[KEY] = ADA
        fake.identities.away = True
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
            answer = await http.get("/v1/runs", headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code == 503
            assert "Retry-After" in answer.headers
            fake.identities.away = False
            answer = await http.get("/v1/runs", headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code == 200


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
async def test_an_edge_that_asks_nobody_stays_on_this_machine(
    fake: FakeOrchestrator, listen: str
) -> None:
    with pytest.raises(SettingsError, match="PEREGRINE_AUTH_REQUIRED: is off"):
        async with edge(orchestrator=fake.target, memory=fake.target, PEREGRINE_LISTEN=listen):
            pytest.fail("it listens")
