"""What the services log of who calls: tenant and user, never what proved it."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from peregrine.kit import telemetry
from peregrine.kit.errors import PeregrineError
from tests.component.identity.conftest import ADA, Whole
from tests.support import stack
from tests.support.identity import BOOTSTRAP, KEYS_TEXT, bearer, signed


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """All that is logged in this process, from debug up, as services write it."""
    stream = io.StringIO()
    telemetry.configure_logging("everything", "debug", stream=stream)
    yield stream


async def test_logs_name_tenant_and_user_and_no_credential(said: io.StringIO, whole: Whole) -> None:
    key = whole.keys["ada"]
    wrong = key[:-6] + "AAAAAA"
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"
    await whole.of("AgentService/ApplyAgent")(bearer(key), agent=stack.agent())
    body = {"agent": stack.AGENT, "message": "What is 25 * 17?"}
    answer = await whole.http.post(
        "/v1/chat/stream", json=body, headers={"Authorization": f"Bearer {key}"}
    )
    assert b"run_finished" in answer.content
    made = await whole.of("IdentityService/CreateApiKey")(
        bearer(BOOTSTRAP), name="x", scopes=["run"]
    )
    for credential in (wrong, token, BOOTSTRAP + "x", made.credential):
        refused = await whole.http.get(
            "/v1/runs", headers={"Authorization": f"Bearer {credential}"}
        )
        assert refused.status_code in (200, 401)
        for metadata in (bearer(credential), (("x-peregrine-identity", credential),)):
            with pytest.raises(PeregrineError):
                await whole.of("ToolService/ExecuteTool")(metadata)
            with pytest.raises(PeregrineError):
                await whole.of("OrchestratorService/GetRun")(metadata)

    text = said.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    secrets = (key, wrong, token, BOOTSTRAP, made.credential, KEYS_TEXT, signed(ADA)[0][1])
    for secret in secrets:
        assert secret not in text
        assert secret.rpartition("_")[2][:24] not in text
    assert "eyJ" not in text
    refusals = [line for line in lines if line["event"] == "credentials_refused"]
    assert {line["why"] for line in refusals} >= {
        "the key is unknown, or its secret is another",
        "tokens are not accepted here",
    }
    finished = [line for line in lines if line["event"] == "run_finished"]
    assert [(line["tenant"], line["user"]) for line in finished] == [("acme", "ada")]


def test_a_credential_that_ends_up_in_a_text_is_masked() -> None:
    stream = io.StringIO()
    telemetry.configure_logging("x", stream=stream)
    key = f"pk_{'a' * 16}_{'b' * 43}"
    token = signed(ADA)[0][1]
    structlog.get_logger().info("said", text=f"the key {key} and the token {token} are shown")
    structlog.get_logger().info("said", authorization=f"Bearer {key}", api_key=key, list=[key])
    assert "b" * 8 not in stream.getvalue()
    assert token not in stream.getvalue()
    assert token.split(".")[1] not in stream.getvalue()
