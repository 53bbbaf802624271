"""Arguments, outputs, documents, statistics, declarations, the clock."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from peregrine.kit.errors import Unavailable
from peregrine.tools import documents, output
from peregrine.tools.arguments import ArgumentsInvalid, Check
from peregrine.tools.builtin.clock import current_time
from peregrine.tools.builtin.knowledge_search import knowledge_search
from peregrine.tools.definition import Definition, Effect, Output, ToolContext, ToolFailure, tool
from peregrine.tools.knowledge import Found
from peregrine.tools.output import NotShowable, Shown
from peregrine.tools.stats import ToolStats

SCHEMA = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"price": {"type": "number"}},
                "required": ["price"],
            },
        },
        "unit": {"anyOf": [{"const": "kg"}, {"type": "object", "required": ["name"]}]},
        "far": {"$ref": "https://example.invalid/schema.json"},
    },
}


def test_the_place_of_a_problem_is_named() -> None:
    check = Check(SCHEMA)
    with pytest.raises(
        ArgumentsInvalid, match=r"at items\[1\]\.price, 'x' is not of type 'number'"
    ):
        check.read(b'{"items": [{"price": 1}, {"price": "x"}]}')
    with pytest.raises(ArgumentsInvalid, match="at unit"):
        check.read(b'{"unit": {}}')
    with pytest.raises(ArgumentsInvalid, match="and 1 more"):
        check.read(b'{"items": [{}, {}, {}, {}]}')


def test_the_value_itself_is_not_said_when_it_is_long() -> None:
    with pytest.raises(ArgumentsInvalid) as caught:
        Check(SCHEMA).read(json.dumps({"items": "x" * 10_000}).encode())
    assert str(caught.value) == (
        "The arguments do not fit the tool: at items, the value breaks the rule 'type'."
    )


def test_integers_keep_all_their_digits() -> None:
    assert Check({"type": "object"}).read(b'{"n": 123456789012345678901234567890}') == {
        "n": 123456789012345678901234567890
    }


def test_a_reference_to_elsewhere_is_not_followed() -> None:
    with pytest.raises(ArgumentsInvalid, match="schema is broken"):
        Check(SCHEMA).read(b'{"far": 1}')


def test_what_is_no_schema_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="is not a JSON Schema"):
        Check({"type": "objekt"})


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ("text", Shown("text")),
        (Output("text", {"n": 1}), Shown("text", b'{"n":1}')),
        (Output("text", 0), Shown("text", b"0")),
        ({"a": [1]}, Shown('{"a":[1]}', b'{"a":[1]}')),
        ([], Shown("[]", b"[]")),
        (5, Shown("5", b"5")),
        (None, Shown("null", b"null")),
        ("", Shown("")),
    ],
)
def test_a_result_is_shown_as_text_and_data(result: Any, shown: Shown) -> None:
    assert output.show(result) == shown


@pytest.mark.parametrize(
    "result",
    [object(), {"x": object()}, Output(5), "\ud800", {"x": "\ud800"}],  # type: ignore[arg-type] # what a careless tool gives
)
def test_what_is_neither_text_nor_json_is_refused(result: Any) -> None:
    with pytest.raises(NotShowable):
        output.show(result)


@pytest.mark.parametrize("letter", ["x", "ü", "€", "👩"])
def test_a_long_text_is_cut_between_characters(letter: str) -> None:
    size = len(letter.encode())
    assert not output.show(letter * (output.MAX_BYTES // size)).cut
    shown = output.show(letter * (output.MAX_BYTES // size + 1))
    assert shown.cut
    assert output.MAX_BYTES - 4 < len(shown.text.encode()) <= output.MAX_BYTES
    assert "was cut here" in shown.text


def test_documents_are_cut_at_headings() -> None:
    document = documents.parse(
        "shop/a.md",
        "# Shop\n\nHello.\n\n## Refunds ##\n\nSoon.\n\n```\n# no heading\n```\n\n"
        "### Cards\nLater.\n\n## Empty\n\n## Other\nEnd.",
    )
    assert (document.source, document.title) == ("shop/a.md", "Shop")
    assert [(each.heading, each.body) for each in document.passages] == [
        ("Shop", "Hello."),
        ("Shop > Refunds", "Soon.\n\n```\n# no heading\n```"),
        ("Shop > Refunds > Cards", "Later."),
        ("Shop > Other", "End."),
    ]


def test_long_sections_are_cut_between_paragraphs_and_nothing_is_lost() -> None:
    words = [f"word{number}" for number in range(3_000)]
    text = "\n\n".join(" ".join(words[start : start + 100]) for start in range(0, 3_000, 100))
    for source in (text, text.replace("\n\n", " ")):
        passages = documents.parse("long.md", source).passages
        assert all(len(each.body) <= documents.MAX_PASSAGE_CHARACTERS for each in passages)
        assert " ".join(each.body for each in passages).split() == words
        assert {each.heading for each in passages} == {"long.md"}


def test_a_folder_is_read_whole_without_what_is_hidden_or_not_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b.md").write_text("# B\nx")
    (tmp_path / "sub" / "a.MD").write_text("# A\nx")
    (tmp_path / ".git" / "c.md").write_text("# C\nx")
    (tmp_path / "d.txt").write_text("no")
    (tmp_path / "e.md").write_bytes(b"\xff\xfe\x00")
    assert [each.source for each in documents.read_folder(tmp_path)] == ["b.md", "sub/a.MD"]


def test_a_digest_follows_the_content_only() -> None:
    one, same, other = (documents.parse(*each) for each in (("a", "x"), ("b", "x"), ("a", "y")))
    assert one.digest == same.digest != other.digest


def test_quantiles_are_of_the_last_executions() -> None:
    stats = ToolStats()
    assert stats.execution_quantile(0.5) == 0
    for number in range(1, 101):
        stats.executed(queue_seconds=0, execution_seconds=number)
    assert (stats.execution_quantile(0.5), stats.execution_quantile(0.95)) == (50, 95)
    assert stats.queue_quantile(0.95) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "with blank"},
        {"name": "x" * 65},
        {"description": ""},
        {"description": "x" * 4_097},
        {"timeout": 0},
        {"timeout": 301},
        {"max_concurrency": 0},
        {"retries": 6},
        {"parameters": None, "input_schema": {"type": "array"}},
        {"input_schema": {"type": "object"}},
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(wrong: dict[str, Any]) -> None:
    declared: dict[str, Any] = {
        "name": "x",
        "description": "x",
        "parameters": {},
        "effect": Effect.READ,
        **wrong,
    }
    with pytest.raises(ValueError, match="the tool"):
        tool(**declared)(lambda arguments, context: "")


def _ignore(name: str, value: float, labels: Mapping[str, str], /) -> None: ...


async def told(definition: Definition, **arguments: str) -> Output:
    context = ToolContext(
        tenant="t",
        user="u",
        call_id="",
        agent_id="",
        idempotency_key="",
        deadline=0,
        record=_ignore,
    )
    result: Any = await definition.function(arguments, context)  # type: ignore[misc] # async
    assert isinstance(result, Output)
    return result


@pytest.fixture
def clock() -> Definition:
    return current_time(lambda: datetime(2026, 11, 5, 12, 30, 15, 987, tzinfo=UTC))


@pytest.mark.parametrize("name", ["", "UTC", "utc", "Z"])
async def test_the_time_is_utc_unless_asked_otherwise(clock: Definition, name: str) -> None:
    result = await told(clock, timezone=name)
    assert result.text == "Thursday, 2026-11-05 12:30:15 UTC (UTC+00:00)"
    assert result.data == {
        "time": "2026-11-05T12:30:15+00:00",
        "timezone": "UTC",
        "utc_offset": "+00:00",
        "weekday": "Thursday",
        "unix_seconds": 1793881815,
    }
    assert await told(clock) == result


@pytest.mark.parametrize(
    ("name", "zone", "time"),
    [
        ("Europe/Berlin", "Europe/Berlin", "2026-11-05T13:30:15+01:00"),
        ("asia/kolkata", "Asia/Kolkata", "2026-11-05T18:00:15+05:30"),
        ("New York", "America/New_York", "2026-11-05T07:30:15-05:00"),
    ],
)
async def test_the_time_elsewhere(clock: Definition, name: str, zone: str, time: str) -> None:
    result = await told(clock, timezone=name)
    assert (result.data["timezone"], result.data["time"]) == (zone, time)


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "\x00"]
)
async def test_no_time_zone_is_said_so(clock: Definition, name: str) -> None:
    with pytest.raises(ToolFailure) as caught:
        await told(clock, timezone=name)
    assert caught.value.reason == "TIMEZONE_UNKNOWN"


async def test_without_a_time_zone_database_utc_still_works(
    clock: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zoneinfo

    def nothing(name: str) -> zoneinfo.ZoneInfo:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", nothing)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert (await told(clock)).data["timezone"] == "UTC"
    with pytest.raises(ToolFailure) as caught:
        await told(clock, timezone="Europe/Berlin")
    assert caught.value.reason == "TIMEZONE_DATA_MISSING"


async def test_documents_that_cannot_be_reached_are_a_failure_with_its_reason() -> None:
    async def away(tenant: str, query: str, *, limit: int) -> list[Found]:
        raise Unavailable("away", reason="POSTGRES_UNAVAILABLE")

    with pytest.raises(ToolFailure) as caught:
        await told(knowledge_search(away), query="refunds")
    assert caught.value.reason == "POSTGRES_UNAVAILABLE"
