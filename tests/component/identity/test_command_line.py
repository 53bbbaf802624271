"""`peregrine` and the client library where identity is on: keys, files, TLS, refusals."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2_grpc as rpc
from peregrine.client import Exchange, IdentityClient, MemoryClient, PeregrineClient, Tls
from peregrine.kit.context import ContextInterceptor, OpenDoor
from peregrine.kit.errors import (
    ErrorInterceptor,
    FailedPrecondition,
    InvalidArgument,
    Unauthenticated,
    Unavailable,
)
from tests.component.cli.program import Program
from tests.component.identity.conftest import Whole
from tests.support.certificates import self_signed
from tests.support.fake_orchestrator import FakeOrchestrator
from tests.support.identity import BOOTSTRAP

_TARGETS = ("MEMORY", "TOOLS")


def program(whole: Whole, **more: str) -> Program:
    targets = {
        f"PEREGRINE_{name}_TARGET": whole.stack.environ[f"PEREGRINE_{name}_TARGET"]
        for name in _TARGETS
    }
    return Program({"PEREGRINE_ORCHESTRATOR_TARGET": whole.stack.first.address, **targets, **more})


async def test_keys_are_made_shown_once_listed_and_revoked(whole: Whole, tmp_path: Path) -> None:
    admin = program(whole, PEREGRINE_API_KEY=BOOTSTRAP)
    made = await admin("keys", "create", "ci", "-s", "run", "--user", "bot", "--expires", "90d")
    assert made.code == 0, made.err
    credential = made.out.strip()
    key_id = credential.split("_")[1]
    assert made.out == f"{credential}\n" and credential not in made.err
    assert f"key/{key_id} of default/bot, run, until 2" in made.err

    file = tmp_path / "key"
    file.write_text(f"{credential}\n")
    anybody = program(whole)
    for command in (
        ("agents", "list"),
        ("runs", "list"),
        ("conversations", "list"),
        ("tools", "list"),
    ):
        shown = await anybody("--api-key-file", str(file), *command)
        assert shown.code == 0, (command, shown.err)
    refused = await anybody("--api-key-file", str(file), "keys", "list")
    assert (refused.code, "needs the scope 'admin'" in refused.err) == (1, True)

    listed = await admin("keys", "list")
    assert key_id in listed.out and credential not in listed.out
    (as_json,) = [each for each in (await admin("keys", "list", "--json")).lines]
    assert (as_json["key_id"], as_json["scopes"]) == (key_id, ["run"])

    revoked = await admin("keys", "revoke", key_id)
    assert revoked.out == f"key/{key_id} revoked\n"
    assert "revoked" in (await admin("keys", "list")).out
    refused = await program(whole, PEREGRINE_API_KEY_FILE=str(file))("conversations", "list")
    assert refused.code == 1
    assert "the credentials are not valid" in refused.err and credential not in refused.err


async def test_a_key_as_json_is_whole(whole: Whole) -> None:
    admin = program(whole, PEREGRINE_API_KEY=BOOTSTRAP)
    made = await admin("keys", "create", "first", "-s", "admin", "--tenant", "acme", "--json")
    (line,) = made.lines
    assert line["credential"].startswith(f"pk_{line['key']['key_id']}_")
    assert (line["key"]["for_tenant"], line["key"]["for_user"]) == ("acme", "admin")


async def test_who_shows_no_key_is_told_how(whole: Whole) -> None:
    for command in (("agents", "list"), ("keys", "list")):
        refused = await program(whole)(*command)
        assert refused.code == 1
        assert "PEREGRINE_API_KEY" in refused.err and "CREDENTIALS_MISSING" in refused.err


@pytest.mark.parametrize("expires", ["soon", "0d", "-1d", "99999999d", "2020-01-01"])
async def test_a_time_that_is_none_is_refused(whole: Whole, expires: str) -> None:
    admin = program(whole, PEREGRINE_API_KEY=BOOTSTRAP)
    refused = await admin("keys", "create", "x", "--expires", expires)
    assert refused.code in (1, 2)
    assert refused.out == ""


async def test_a_key_is_not_sent_in_the_clear_to_another_machine() -> None:
    away = Program(
        {
            "PEREGRINE_ORCHESTRATOR_TARGET": "peregrine.example:50051",
            "PEREGRINE_API_KEY": BOOTSTRAP,
        }
    )
    for command in (("agents", "list"), ("conversations", "list"), ("keys", "list")):
        refused = await away(*command)
        assert refused.code == 1
        assert "not sent to peregrine.example:50051 in the clear" in refused.err
        assert "--tls or --no-tls" in refused.err


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused = await Program()("--api-key-file", str(tmp_path / "none"), "agents", "list")
    assert refused.code == 2
    assert "PEREGRINE_API_KEY_FILE" in refused.err and "cannot be read" in refused.err


@pytest.mark.parametrize("key", ["", "two words", "ä" * 40, "a\nb", "x" * 9000])
def test_what_is_no_credential_is_refused_before_it_is_sent(key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        PeregrineClient("127.0.0.1:1", api_key=key)
    assert caught.value.reason == "API_KEY_MALFORMED"
    assert key == "" or key not in str(caught.value)


def test_the_library_keeps_a_key_off_the_wire_and_off_the_screen() -> None:
    for target in ("peregrine.example:50051", "dns:///peregrine:50051", "10.0.0.1:1"):
        with pytest.raises(FailedPrecondition) as caught:
            PeregrineClient(target, api_key=BOOTSTRAP)
        assert caught.value.reason == "TLS_NEEDED"
        for tls in (True, False, Tls(b"pem")):
            client = PeregrineClient(target, api_key=BOOTSTRAP, tls=tls)
            assert BOOTSTRAP not in repr(client)
    with pytest.raises(TypeError):
        MemoryClient("127.0.0.1:1", api_key=BOOTSTRAP)


async def test_the_library_exchanges_a_key_once_and_again_when_it_may_have_ended(
    whole: Whole,
) -> None:
    async with (
        IdentityClient(whole.stack.first.address) as identities,
        MemoryClient(
            whole.stack.environ["PEREGRINE_MEMORY_TARGET"],
            api_key=whole.keys["ada"],
            exchange=Exchange(identities),
        ) as memory,
    ):
        page = await memory.page_of_conversations()
        assert list(page.conversations) == []
        assert (await identities.exchange_credential(whole.keys["bob"])).for_user == "bob"
        with pytest.raises(Unauthenticated):
            await identities.exchange_credential("nobody")


@pytest.fixture
async def encrypted() -> AsyncIterator[tuple[str, bytes, FakeOrchestrator]]:
    """A service behind TLS: its target, whom to trust, itself."""
    key, certificate = self_signed()
    fake = FakeOrchestrator()
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), ContextInterceptor(door=OpenDoor())])
    rpc.add_AgentServiceServicer_to_server(fake, server)
    credentials = grpc.ssl_server_credentials([(key, certificate)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"localhost:{port}", certificate, fake
    await server.stop(0)


async def test_over_tls_a_key_goes_to_who_is_trusted_only(
    encrypted: tuple[str, bytes, FakeOrchestrator], tmp_path: Path
) -> None:
    target, certificate, fake = encrypted
    async with PeregrineClient(target, api_key=BOOTSTRAP, tls=Tls(certificate)) as client:
        assert [each async for each in client.list_agents()] == []
    for tls in (True, False):
        async with PeregrineClient(target, api_key=BOOTSTRAP, tls=tls, timeout=5) as client:
            with pytest.raises(Unavailable):
                await client.get_agent("x")
    assert fake.calls == ["ListAgents"]

    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(certificate)
    peregrine = Program({"PEREGRINE_ORCHESTRATOR_TARGET": target, "PEREGRINE_API_KEY": BOOTSTRAP})
    shown = await peregrine("--tls-ca", str(trusted), "agents", "list")
    assert shown.code == 0, shown.err
    assert (await peregrine("--tls", "agents", "list")).code == 3
