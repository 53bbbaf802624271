"""Settings say everything that is wrong at once, and never show a secret."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.kit.settings import (
    PostgresSettings,
    Secret,
    ServeSettings,
    SettingsError,
    describe,
    load,
    secret_ref,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Example(ServeSettings, PostgresSettings):
    listen: str = setting("PEREGRINE_LISTEN", default="127.0.0.1:50099", help="where it listens")
    workers: int = setting("PEREGRINE_WORKERS", default=4, minimum=1, maximum=64, help="how many")
    share: float = setting("PEREGRINE_SHARE", default=0.5, help="a share, 0 to 1")
    root: Path | None = setting("PEREGRINE_ROOT", default=None, help="a folder")
    names: tuple[str, ...] = setting("PEREGRINE_NAMES", default=(), help="names, by comma")
    key: Secret | None = setting("PEREGRINE_KEY", default=None, help="an API key", secret=True)
    even: int = setting(
        "PEREGRINE_EVEN", default=2, help="an even number", parse=lambda t: _even(t)
    )


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError("is odd")
    return int(text)


DSN = {"PEREGRINE_POSTGRES_DSN": "postgresql://app:hunter2@db/app"}


def test_defaults_hold_when_nothing_but_the_required_is_set() -> None:
    settings = load(Example, DSN)
    assert settings.listen == "127.0.0.1:50099"
    assert settings.workers == 4
    assert settings.root is None
    assert settings.names == ()
    assert not settings.reflection


def test_every_type_is_read() -> None:
    settings = load(
        Example,
        DSN
        | {
            "PEREGRINE_WORKERS": " 7 ",
            "PEREGRINE_SHARE": "1e-3",
            "PEREGRINE_ROOT": "/srv/x",
            "PEREGRINE_NAMES": "a, b,,c",
            "PEREGRINE_KEY": "sk-123",
            "PEREGRINE_REFLECTION": "On",
            "PEREGRINE_EVEN": "8",
        },
    )
    assert (settings.workers, settings.share, settings.root) == (7, 0.001, Path("/srv/x"))
    assert settings.names == ("a", "b", "c")
    assert settings.key is not None
    assert settings.key.reveal() == "sk-123"
    assert settings.reflection
    assert settings.even == 8


def test_all_problems_are_named_at_once_each_with_what_to_do() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            Example,
            {
                "PEREGRINE_WORKERS": "many",
                "PEREGRINE_SHARE": "nan",
                "PEREGRINE_REFLECTION": "perhaps",
                "PEREGRINE_METRICS_PORT": "70000",
                "PEREGRINE_LOG_LEVEL": "loud",
                "PEREGRINE_EVEN": "3",
            },
        )
    assert {problem.variable for problem in caught.value.problems} == {
        "PEREGRINE_POSTGRES_DSN",
        "PEREGRINE_WORKERS",
        "PEREGRINE_SHARE",
        "PEREGRINE_REFLECTION",
        "PEREGRINE_METRICS_PORT",
        "PEREGRINE_LOG_LEVEL",
        "PEREGRINE_EVEN",
    }
    lines = str(caught.value).splitlines()
    assert "PEREGRINE_EVEN: '3' is odd; correct it: an even number" in lines
    assert any(line.startswith("PEREGRINE_POSTGRES_DSN: is not set; set it:") for line in lines)


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(Example, DSN | {"PEREGRINE_WORKERS": "  "}).workers == 4
    with pytest.raises(SettingsError, match="PEREGRINE_POSTGRES_DSN: is not set"):
        load(Example, {"PEREGRINE_POSTGRES_DSN": ""})


@given(st.dictionaries(st.sampled_from([row.variable for row in describe(Example)]), st.text()))
def test_loading_anything_gives_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    try:
        load(Example, environ)
    except SettingsError as error:
        assert error.problems


def test_a_secret_is_never_shown() -> None:
    settings = load(Example, DSN | {"PEREGRINE_KEY": "sk-very-secret"})
    for text in (repr(settings), str(settings), f"{settings.postgres_dsn}", str(settings.key)):
        assert "hunter2" not in text
        assert "very-secret" not in text
    assert settings.postgres_dsn.reveal() == DSN["PEREGRINE_POSTGRES_DSN"]


def test_a_malformed_secret_is_not_repeated_in_the_complaint() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pin:
        pin: int = setting("PEREGRINE_PIN", help="a number", secret=True)

    with pytest.raises(SettingsError) as caught:
        load(Pin, {"PEREGRINE_PIN": "12x4"})
    assert "12x4" not in str(caught.value)


def test_the_manual_has_a_row_for_each_field() -> None:
    rows = {row.variable: row for row in describe(Example)}
    assert rows["PEREGRINE_LISTEN"].default == "127.0.0.1:50099"
    assert rows["PEREGRINE_POSTGRES_DSN"].required
    assert rows["PEREGRINE_POSTGRES_DSN"].secret
    assert rows["PEREGRINE_NAMES"].type == "list"
    assert rows["PEREGRINE_REFLECTION"].default == "false"
    assert all(row.help for row in rows.values())


def test_a_secret_ref_is_read_from_its_file_before_the_variable(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("from-file\n")
    environ = {"PEREGRINE_SECRET_API_KEY": "from-variable"}
    assert secret_ref("api-key", environ, directory=tmp_path).reveal() == "from-file"
    assert secret_ref("api-key", environ, directory=tmp_path / "no").reveal() == "from-variable"


@pytest.mark.parametrize("name", ["../passwd", "", "a/b", ".hidden", "x" * 200])
def test_a_secret_ref_cannot_name_another_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not usable"):
        secret_ref(name, {}, directory=tmp_path)


def test_a_missing_secret_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        secret_ref("api-key", {}, directory=tmp_path)
    assert f"create {tmp_path}/api-key or set PEREGRINE_SECRET_API_KEY" in str(caught.value)
