"""Fixtures of the kit's component tests."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from peregrine.kit import telemetry


@pytest.fixture
def log_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Everything that is logged in this test, as the dictionaries of its JSON lines."""
    stream = io.StringIO()
    telemetry.configure_logging("test", "debug", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
