"""The hit rates that were asked for, in virtual time on the committed trace."""

import pytest
from benchmarks import hit_rates, trace


def test_the_trace_is_the_one_that_was_agreed_on() -> None:
    calls = list(trace.calls())
    assert len(calls) == pytest.approx(5 * 8 * 3_600, rel=0.01)
    assert calls[-1][0] < 8 * 3_600 and max(key for _, key in calls) < 20_000
    first = sum(key == 0 for _, key in calls) / len(calls)
    assert first == pytest.approx(0.0954, rel=0.05)  # 1 / H(20,000)
    assert [key for _, key in calls[:5]] == [key for _, key in list(trace.calls(seconds=60))[:5]]


def test_an_hour_to_live_gives_76_percent_from_a_cold_start_as_shipped() -> None:
    shipped = hit_rates.hit_rate(hit_rates.SHIPPED)
    assert hit_rates.HOUR == 3_600 and shipped.hits >= 0.76
    # What it takes: an answer in a hundred is past its time by up to two minutes, and says so.
    assert 0 < shipped.stale < 0.015


def test_plain_expiry_gives_what_can_be_computed_and_no_more() -> None:
    # The sum over all keys of p·rt/(1+rt); a cold start costs 0.6 points of it.
    weights = [1 / rank for rank in range(1, trace.KEYS + 1)]
    asked = [trace.CALLS_PER_SECOND * each / sum(weights) * 3_600 for each in weights]
    most = sum(
        each / sum(weights) * times / (1 + times)
        for each, times in zip(weights, asked, strict=True)
    )
    assert most == pytest.approx(0.758, abs=0.001)
    plain = hit_rates.hit_rate(hit_rates.PLAIN)
    assert plain.stale == 0 and most - 0.01 < plain.hits < most


def test_a_tuned_time_to_live_gives_80_percent_when_warmed() -> None:
    assert hit_rates.hit_rate(hit_rates.TUNED, warmed=True).hits >= 0.80


def test_warming_shows_in_the_first_minute() -> None:
    cold = hit_rates.hit_rate(hit_rates.SHIPPED, within=60.0)
    warmed = hit_rates.hit_rate(hit_rates.SHIPPED, warmed=True, within=60.0)
    assert cold.hits < 0.5 and warmed.hits > 0.85


@pytest.mark.parametrize("entries", [100, 1_000, 5_000])
def test_the_near_cache_beats_least_recently_used_under_scans(entries: int) -> None:
    keys = list(trace.with_scans(0.5))
    assert hit_rates.sieve(keys, entries=entries) > hit_rates.least_recently_used(
        keys, entries=entries
    )
