"""Rows say whether they hold, and a measurement that breaks is a row too."""

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from benchmarks import __main__ as benchmarks
from benchmarks import rows
from benchmarks.lab import Lab
from benchmarks.rows import Bound, Row
from rich.console import Console


@pytest.mark.parametrize(
    ("bound", "value", "holds"),
    [
        (Bound(at_most=25), 25.0, True),
        (Bound(at_most=25), 25.1, False),
        (Bound(at_least=2), 1.9, False),
        (Bound(at_least=2, at_most=3), 2.5, True),
    ],
)
def test_a_value_holds_up_to_its_bound(bound: Bound, value: float, holds: bool) -> None:
    row = Row(name="a", value=value, bound=bound)
    assert row.holds is holds
    assert row.verdict == ("holds" if holds else "short")


def test_a_row_without_a_bound_only_informs() -> None:
    assert Row(name="a", value=1.0).holds is None
    assert Row(name="a", value=1.0).verdict == ""


def test_a_broken_row_does_not_hold() -> None:
    assert Row(name="a", broken="no disk").verdict == "broken"


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (75, 3), (95, 4), (100, 4), (0, 1)])
def test_percentiles_are_values_that_were_measured(percent: float, expected: float) -> None:
    assert rows.percentile([4, 1, 3, 2], percent) == expected


def test_the_table_shows_value_bound_and_verdict() -> None:
    screen = io.StringIO()
    console = Console(width=100, file=screen)
    console.print(
        rows.table(
            [
                Row(name="overhead", value=21.234, unit="echoes", bound=Bound(at_most=25)),
                Row(name="rate", value=12345.6, unit="calls/s"),
                Row(name="disk", broken="it is full"),
            ]
        )
    )
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert lines[1:] == [
        "overhead 21.2 echoes ≤ 25 holds",
        "rate 12,346 calls/s",
        "disk broken: it is full",
    ]


def test_the_result_is_kept_with_the_facts_of_the_machine(tmp_path: Path) -> None:
    row = Row(name="a", value=1.5, unit="s", bound=Bound(at_most=1), detail={"p99": 3})
    kept = json.loads(rows.write([row], tmp_path / "results", seconds=2.0).read_text())
    assert kept["rows"] == [
        {
            "name": "a",
            "value": 1.5,
            "unit": "s",
            "bound": {"at_most": 1, "at_least": None},
            "verdict": "short",
            "reason": "",
            "detail": {"p99": 3},
        }
    ]
    assert kept["machine"]["cores"] > 0


async def test_a_measurement_that_breaks_is_a_row_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def breaks(_: Lab) -> AsyncIterator[Row]:
        yield Row(name="first", value=1.0)
        raise OSError("no such disk")

    async def works(_: Lab) -> AsyncIterator[Row]:
        yield Row(name="second", value=2.0)

    monkeypatch.setattr(benchmarks, "MEASUREMENTS", {"breaks": breaks, "works": works})
    shown: list[int] = []
    done = await benchmarks.measure(["breaks", "works"], lambda now: shown.append(len(now)))
    assert [(row.name, row.broken) for row in done] == [
        ("first", ""),
        ("breaks", "OSError: no such disk"),
        ("second", ""),
    ]
    assert shown == [1, 2, 3]
