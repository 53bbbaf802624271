"""The latency model."""

import pytest

from peregrine.simulator import latency
from peregrine.simulator.latency import Latency
from peregrine.simulator.wire import ApiError


def test_the_first_token_waits_for_the_prompt_that_is_not_cached() -> None:
    model = Latency(first_token=0.2, seconds_per_prompt_token=0.001)
    assert model.first_token_seconds(300, 0.9) == pytest.approx(0.5)


def test_jitter_varies_the_first_token_around_itself() -> None:
    model = Latency(first_token=1, jitter=0.25, seconds_per_prompt_token=1)
    drawn = [model.first_token_seconds(2, draw) for draw in (0, 0.5, 1)]
    assert drawn == [2.75, 3, 3.25]


def test_a_header_changes_some_fields() -> None:
    changed = Latency().with_changes(latency.parse("first_token=0.04, tokens_per_second=50"))
    assert (changed.first_token, changed.tokens_per_second) == (0.04, 50)
    assert latency.parse("") == {}


@pytest.mark.parametrize(
    "text", ["first_token", "first_token=x", "first_token=-1", "colour=1", "jitter=2", "jitter=nan"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        Latency().with_changes(latency.parse(text))
    assert caught.value.status == 400
