"""The baseline decides as the HorizontalPodAutoscaler's documentation says that it does."""

import itertools

import pytest
from benchmarks.simulate.pool import hpa
from benchmarks.simulate.pool.hpa import Autoscaler, Behavior, MetricFailed, Policy


@pytest.mark.parametrize(
    ("values", "missing", "pending", "target", "wanted"),
    [
        ([200.0], 0, 0, 100.0, 2),  # "if the current metric value is 200m, … doubled"
        ([50.0, 50.0], 0, 0, 100.0, 1),  # "if it is 50m, … halved"
        ([110.0] * 10, 0, 0, 100.0, 10),  # at the edge of the tolerance
        ([111.0] * 10, 0, 0, 100.0, 12),
        ([90.0] * 10, 0, 0, 100.0, 10),
        ([89.0] * 10, 0, 0, 100.0, 9),
        # Missing pods count as idle on the way up …
        ([200.0] * 3, 1, 0, 100.0, 6),
        # … and at the target on the way down.
        ([10.0] * 3, 1, 0, 100.0, 2),
        # With them the direction would turn round, or the change is within the tolerance.
        ([110.0, 130.0], 2, 0, 100.0, 4),
        ([150.0, 150.0], 1, 0, 100.0, 3),
        # Pods that are not started count as idle on the way up, and not at all on the way down.
        ([300.0] * 3, 0, 1, 100.0, 9),
        ([125.0] * 4, 0, 1, 100.0, 5),
        ([30.0] * 3, 0, 7, 100.0, 1),
        # What does not go in the direction of the ratio is not done.
        ([150.0] * 4, 0, 3, 100.0, 7),
    ],
)
def test_a_metric_of_each_pod(
    values: list[float], missing: int, pending: int, target: float, wanted: int
) -> None:
    found = hpa.by_pods(
        dict(enumerate(values)),
        missing=missing,
        pending=pending,
        replicas=len(values) + missing + pending,
        target=target,
    )
    assert found == wanted


def test_without_any_value_the_metric_failed() -> None:
    with pytest.raises(MetricFailed):
        hpa.by_pods({}, missing=3, pending=0, replicas=3, target=1.0)


@pytest.mark.parametrize(
    ("total", "replicas", "wanted"),
    [
        (400.0, 4, 4),
        (440.0, 4, 4),
        (441.0, 4, 5),
        (360.0, 4, 4),
        (359.0, 4, 4),  # ceil of 3.59
        (299.0, 4, 3),
        (0.0, 4, 0),
        (250.0, 0, 3),
    ],
)
def test_an_external_average(total: float, replicas: int, wanted: int) -> None:
    assert hpa.by_average(total, replicas=replicas, target=100.0) == wanted


def test_of_several_metrics_the_highest_counts_and_a_failed_one_stops_lowering() -> None:
    assert hpa.of_several([3, 7, 5], replicas=4) == 7
    assert hpa.of_several([7, None], replicas=4) == 7
    with pytest.raises(MetricFailed):
        hpa.of_several([3, None], replicas=4)
    with pytest.raises(MetricFailed):
        hpa.of_several([None], replicas=4)


def autoscaler(**behavior: object) -> Autoscaler:
    return Autoscaler(least=1, most=100, behavior=Behavior(**behavior))  # type: ignore[arg-type]


def test_up_by_default_at_most_double_or_four_in_fifteen_seconds() -> None:
    one = autoscaler()
    assert one.scale(80, replicas=2, now=0.0) == 6
    assert one.scale(80, replicas=6, now=5.0) == 6
    assert one.scale(80, replicas=6, now=15.0) == 12
    assert one.scale(80, replicas=12, now=30.0) == 24


def test_the_documented_example_of_scaling_down_by_policies() -> None:
    """80 pods and a target of 10, with 4 Pods or 10 percent a minute, whichever is more."""
    one = autoscaler(down=(Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0)), down_window=0.0)
    replicas, now, seen = 80, 0.0, []
    while replicas > 24:
        replicas = one.scale(10, replicas=replicas, now=now)
        seen.append(replicas)
        now += 60.0
    # "In each iteration … 10 percent … until 40, where 4 Pods take over."
    assert seen[:3] == [72, 64, 57]
    below = [count for count in seen if count < 40]
    assert all(a - b == 4 for a, b in itertools.pairwise(below))


def test_percent_is_rounded_up_on_the_way_up_and_down_on_the_way_down() -> None:
    up = autoscaler(up=(Policy("Percent", 10, 15.0),))
    assert up.scale(50, replicas=15, now=0.0) == 17
    down = autoscaler(down=(Policy("Percent", 10, 15.0),), down_window=0.0)
    assert down.scale(1, replicas=15, now=0.0) == 13


def test_down_only_to_the_highest_recommendation_of_five_minutes() -> None:
    one = autoscaler()
    assert one.scale(8, replicas=10, now=0.0) == 10
    assert one.scale(3, replicas=10, now=299.0) == 10
    assert one.scale(3, replicas=10, now=301.0) == 3


def test_up_only_to_the_lowest_recommendation_of_its_window() -> None:
    one = autoscaler(up_window=60.0)
    assert one.scale(5, replicas=5, now=0.0) == 5
    assert one.scale(9, replicas=5, now=15.0) == 5
    assert one.scale(9, replicas=5, now=61.0) == 9


def test_a_tenfold_policy_multiplies_by_ten() -> None:
    one = autoscaler(up=(Policy("Percent", 900, 15.0),))
    assert one.scale(60, replicas=3, now=0.0) == 30


def test_bounds_hold() -> None:
    one = Autoscaler(least=2, most=10, behavior=Behavior(down_window=0.0))
    assert one.scale(0, replicas=4, now=0.0) == 2
    assert one.scale(500, replicas=8, now=60.0) == 10
