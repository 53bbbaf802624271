"""What the gateway refuses to start with, and what it sends as its key."""

import pytest

from peregrine.kit.settings import Secret, SettingsError, load
from peregrine.llm_gateway.main import PLACEHOLDER_KEY, Settings, resolve_key, run
from tests.support.identity import OFF

URL = "PEREGRINE_ANTHROPIC_BASE_URL"


def key(**environ: str) -> str:
    return resolve_key(load(Settings, OFF | environ), environ).reveal()


def test_the_key_is_sent_as_it_is() -> None:
    assert key(ANTHROPIC_API_KEY="sk-1") == "sk-1"
    assert key(ANTHROPIC_API_KEY="sk-1", **{URL: "http://127.0.0.1:1"}) == "sk-1"


def test_the_key_may_be_named_instead() -> None:
    environ = {"PEREGRINE_ANTHROPIC_API_KEY_REF": "model", "PEREGRINE_SECRET_MODEL": "sk-2"}
    assert key(ANTHROPIC_API_KEY="sk-1", **environ) == "sk-2"


def test_a_base_url_of_somebody_else_needs_no_key() -> None:
    assert key(**{URL: "http://127.0.0.1:50060"}) == PLACEHOLDER_KEY


@pytest.mark.parametrize(
    "environ",
    [{}, {URL: "https://api.anthropic.com"}, {URL: "https://eu.api.anthropic.com/"}],
)
def test_without_a_key_the_gateway_does_not_start(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({**OFF, "PEREGRINE_LISTEN": "127.0.0.1:0", **environ}) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "ANTHROPIC_API_KEY" in lines[0]
    assert URL in lines[0]


@pytest.mark.parametrize(
    "url", ["127.0.0.1:1", "ftp://x", "http://", "http://u:p@x", "http://x?k=1"]
)
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        load(Settings, OFF | {URL: url})


def test_a_key_does_not_show() -> None:
    settings = load(Settings, OFF | {"ANTHROPIC_API_KEY": "sk-1"})
    assert settings.api_key == Secret("sk-1")
    assert "sk-1" not in repr(settings)
