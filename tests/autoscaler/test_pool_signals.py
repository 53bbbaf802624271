"""What Prometheus answers becomes signals, or a reason to hold; never a zero that nobody said."""

import math
import random
import re
from pathlib import Path

import pytest

from peregrine_operator import signals
from peregrine_operator.signals import QUERIES, Answered, Failure, NoData, Series, Signals
from tests.autoscaler.pool_samples import answers, vector


def read(expected: int = 10, fast: int = 15, **changes: signals.Answer) -> Signals | NoData:
    return signals.read(answers(**changes), fast=fast, workers=expected)


def test_a_healthy_answer_is_read() -> None:
    found = read()
    assert isinstance(found, Signals)
    assert (found.demand_fast, found.service, found.inflight) == (64.0, 0.5, 32.0)
    assert found.coverage == 1.0
    assert found.wait_p95 == pytest.approx(0.1 + 0.15 * (60.8 - 57.6) / 6.4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"queued": Failure("timeout after 2 s")}, "error"),
        ({name: Failure("503") for name in QUERIES}, "error"),
        ({"demand_60s": Failure("refused")}, "error"),
        ({name: () for name in QUERIES}, "empty"),
        ({"inflight": ()}, "empty"),
        ({"busy_5m": ()}, "empty"),
        ({"demand_15s": ()}, "empty"),
        ({"demand_15s": vector(math.nan)}, "nonfinite"),
        ({"busy_5m": vector(math.nan)}, "nonfinite"),
        ({"inflight": vector(math.inf)}, "nonfinite"),
        ({"queued": vector(-math.inf)}, "nonfinite"),
        ({"inflight": vector(-1.0)}, "nonfinite"),
        ({"started_60s": vector(2e9)}, "nonfinite"),
        ({"waits_60s": vector(math.nan, le="+Inf")}, "nonfinite"),
        ({"queued": [*vector(1.0), *vector(2.0, job="b")]}, "shape"),
        ({"waits_60s": vector(1.0)}, "shape"),
        ({"waits_60s": [*vector(1.0, le="1"), *vector(1.0, le="1.0")]}, "shape"),
        ({"age": vector(20.1)}, "stale"),
        ({"workers": vector(4.0)}, "coverage"),
        ({"workers": ()}, "empty"),
    ],
)
def test_bad_data_is_a_reason_to_hold(changes: dict[str, signals.Answer], reason: str) -> None:
    found = read(**changes)
    assert isinstance(found, NoData)
    assert found.reason == reason
    assert found.message


def test_a_present_zero_is_a_zero() -> None:
    """Also where nothing has run for five minutes: there is no time of an execution then."""
    idle = {name: vector(0.0) for name in QUERIES if name not in ("workers", "age", "waits_60s")}
    found = read(**idle, waits_60s=vector(0.0, le="+Inf"))
    assert isinstance(found, Signals)
    assert (found.demand_stable, found.service, found.wait_p95) == (0.0, None, None)


def test_what_is_missing_of_the_workers_is_made_up_for_and_said() -> None:
    found = read(16, demand_60s=(), demand_15s=())
    assert isinstance(found, Signals)
    assert found.coverage == 10 / 16
    assert found.inflight == pytest.approx(32.0 * 1.6)
    assert found.demand_stable == pytest.approx(70.0 * 1.6)


def test_what_callers_count_needs_no_making_up() -> None:
    found = read(16, waiting=vector(7.0), queued=vector(5.0), arrived_60s=vector(40.0))
    assert isinstance(found, Signals)
    assert found.demand_stable == 64.0
    assert found.queued == pytest.approx(5.0 * 1.6 + 7.0)


@pytest.mark.parametrize(("arrived", "shed", "demand"), [(70, 0, 64), (90, 0, 90), (90, 1, 64)])
def test_who_does_not_count_is_seen_in_what_arrives(
    arrived: float, shed: float, demand: float
) -> None:
    """Unless workers refuse: then what arrives is counted again when it comes back."""
    found = read(arrived_15s=vector(arrived), arrived_60s=vector(arrived), shed_60s=vector(shed))
    assert isinstance(found, Signals)
    assert found.demand_stable == demand


def test_with_no_worker_only_callers_are_asked() -> None:
    nothing = dict.fromkeys(QUERIES, ())
    called = {name: vector(3.0) for name in ("demand_15s", "demand_60s", "waiting")}
    found = signals.read({**nothing, **called}, fast=15, workers=0)
    assert isinstance(found, Signals)
    assert (found.demand_fast, found.queued) == (3.0, 3.0)
    missing = signals.read(nothing, fast=15, workers=0)
    assert isinstance(missing, NoData)


def test_more_answers_from_the_cache_than_calls_are_no_negative_demand() -> None:
    found = read(demand_15s=vector(-0.2), demand_60s=vector(-0.1), arrived_60s=vector(0.0))
    assert isinstance(found, Signals)
    assert (found.demand_fast, found.demand_stable) == (0.0, 0.0)


def test_the_profile_chooses_the_fast_window() -> None:
    found = read(fast=10, demand_10s=vector(99.0))
    assert isinstance(found, Signals)
    assert found.demand_fast == 99.0


def test_answers_are_sorted_by_pool() -> None:
    both = Answered(
        {
            "queued": [Series({"pool": "a"}, 1.0), Series({"pool": "b"}, 2.0)],
            "age": Failure("away"),
        }
    )
    assert both.of("b") == {"queued": [Series({"pool": "b"}, 2.0)], "age": Failure("away")}
    assert both.of("c") == {"queued": (), "age": Failure("away")}


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_series_labels_and_answers_is_irrelevant(seed: int) -> None:
    chance = random.Random(seed)
    given = answers()
    mixed = {}
    for name in chance.sample(list(given), len(given)):
        answer = given[name]
        assert not isinstance(answer, Failure)
        mixed[name] = [
            Series(dict(chance.sample(list(one.labels.items()), len(one.labels))), one.value)
            for one in chance.sample(list(answer), len(answer))
        ]
    assert signals.read(mixed, fast=15, workers=10) == read()


def test_every_query_is_of_all_pools() -> None:
    for name, query in QUERIES.items():
        assert "by (pool" in query, name
        assert "{" not in query, name


def test_what_is_asked_for_is_exported() -> None:
    listed = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    exported = set(re.findall(r"^\| `(\w+)`", listed, re.MULTILINE))
    for name, query in QUERIES.items():
        for metric in re.findall(r"peregrine_\w+", query):
            assert re.sub(r"_(sum|count|bucket)$", "", metric) in exported, name
