"""What is done after a failed model call."""

from typing import Any

import pytest

from peregrine.kit.errors import InvalidArgument, Unavailable
from peregrine.llm_gateway.retrying import (
    FIRST_DELAY,
    MAX_BACKOFF,
    Again,
    Decision,
    GiveUp,
    NextModel,
    decide,
)

OVERLOADED = Unavailable("later", reason="MODEL_OVERLOADED")
REFUSED = InvalidArgument("no", reason="MODEL_REQUEST_REFUSED")


def after(error: Any = OVERLOADED, **changes: Any) -> Decision:
    given: dict[str, Any] = {
        "attempt": 1,
        "retries_left": 3,
        "models_left": 0,
        "time_left": None,
        "longest_wait": 10.0,
        "chance": 0.5,
    }
    return decide(error, **{**given, **changes})


def asks_for(seconds: float) -> Unavailable:
    return Unavailable("later", reason="MODEL_OVERLOADED", retry_after=seconds)


def test_what_passes_is_tried_again_after_a_growing_jittered_delay() -> None:
    assert after(chance=0.0) == Again(0.0)
    assert after() == Again(FIRST_DELAY / 2)
    assert after(attempt=3) == Again(FIRST_DELAY * 2)
    assert after(attempt=99, chance=0.999) == Again(0.999 * MAX_BACKOFF)


def test_the_wait_that_was_asked_for_is_the_least() -> None:
    assert after(asks_for(3), chance=0.0) == Again(3.0)
    assert after(asks_for(3)) == Again(3.0 + FIRST_DELAY / 2)


@pytest.mark.parametrize(
    "changes", [{"retries_left": 0}, {"longest_wait": 2.9}, {"time_left": 5.0}]
)
def test_a_retry_that_cannot_be_is_another_models_chance(changes: dict[str, Any]) -> None:
    assert after(asks_for(3), **changes) == GiveUp()
    assert after(asks_for(3), models_left=1, **changes) == NextModel()


def test_what_would_fail_again_is_given_up() -> None:
    assert after(REFUSED, models_left=2) == GiveUp()
