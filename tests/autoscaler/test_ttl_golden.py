"""Streams of decisions are what they were: a change of the rule shows as a diff."""

from pathlib import Path

import pytest

from tests.autoscaler import ttl_streams


@pytest.mark.parametrize(("name", "path"), list(ttl_streams.golden()))
def test_a_stream_is_decided_as_agreed(name: str, path: Path) -> None:
    assert ttl_streams.transcript(name) == path.read_text(encoding="utf-8"), (
        "explain the diff, then run `python -m tests.autoscaler.ttl_streams`"
    )


def test_nothing_golden_is_left_over() -> None:
    kept = {path for path in ttl_streams.GOLDEN.glob("ttl-*.txt")}
    assert kept == {path for _, path in ttl_streams.golden()}
