"""The HorizontalPodAutoscaler, version 2, written from its documentation and checked against it.

Every 15 seconds: `ceil(replicas * value / target)`, nothing within a tolerance of a tenth, the
highest of the last five minutes on the way down, policies that bound how fast it goes either way.
Pods whose metric is missing count as idle on the way up and as exactly at the target on the way
down; where that turns the direction round, nothing happens. If one of several metrics fails,
scaling up goes on and scaling down does not.

Source: Kubernetes, concepts, "Horizontal Pod Autoscaling" (algorithm details, configurable scaling
behavior), and the defaults of `autoscaling/v2`. The tests hold its worked examples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

TOLERANCE = 0.1
PERIOD = 15.0


class MetricFailed(Exception):
    """The metric could not be had."""


def within_tolerance(ratio: float) -> bool:
    """Both edges are within."""
    return 1.0 - TOLERANCE - 1e-9 <= ratio <= 1.0 + TOLERANCE + 1e-9


def by_pods(
    values: Mapping[int, float], *, missing: int, pending: int, replicas: int, target: float
) -> int:
    """Replicas for a metric of each pod. `missing`: running, but without the metric. `pending`:
    not started."""
    if not values:
        raise MetricFailed("no pod has the metric")
    ratio = sum(values.values()) / len(values) / target
    up_with_pending = pending > 0 and ratio > 1.0
    if not up_with_pending and missing == 0:
        return replicas if within_tolerance(ratio) else _up(ratio * len(values))
    total, count = sum(values.values()), len(values)
    if missing and ratio != 1.0:
        total += missing * (target if ratio < 1.0 else 0.0)
        count += missing
    if up_with_pending:
        count += pending
    anew = total / count / target
    if within_tolerance(anew) or (ratio < 1.0 < anew) or (anew < 1.0 < ratio):
        return replicas
    wanted = _up(anew * count)
    if (anew < 1.0 and wanted > replicas) or (anew > 1.0 and wanted < replicas):
        return replicas
    return wanted


def by_average(total: float, *, replicas: int, target: float) -> int:
    """Replicas for an external metric of type AverageValue; `replicas` is that of the status."""
    if replicas and within_tolerance(total / (target * replicas)):
        return replicas
    return _up(total / target)


def _up(value: float) -> int:
    return math.ceil(value - 1e-9)


def of_several(found: Sequence[int | None], *, replicas: int) -> int:
    """The highest; None is a metric that failed."""
    known = [one for one in found if one is not None]
    if not known or (len(known) < len(found) and max(known) < replicas):
        raise MetricFailed("a metric failed, and without it nothing may be taken away")
    return max(known)


@dataclass(frozen=True, slots=True)
class Policy:
    kind: Literal["Pods", "Percent"]
    value: int
    period: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """`scaleUp` and `scaleDown`; of several policies the one that changes most."""

    up: tuple[Policy, ...] = (Policy("Percent", 100, 15.0), Policy("Pods", 4, 15.0))
    up_window: float = 0.0
    down: tuple[Policy, ...] = (Policy("Percent", 100, 15.0),)
    down_window: float = 300.0


DEFAULT = Behavior()


@dataclass(kw_only=True)
class Autoscaler:
    """What remains between two looks: recommendations and the changes that were made."""

    least: int
    most: int
    behavior: Behavior = DEFAULT
    _recommended: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def scale(self, wanted: int, *, replicas: int, now: float) -> int:
        """From what a metric asks for to what is written."""
        if not self._recommended:
            self._recommended.append((now, replicas))
        stable = self._stabilized(wanted, replicas, now)
        bounded = self._bounded(stable, replicas, now)
        if bounded != replicas:
            self._changes.append((now, bounded - replicas))
        return bounded

    def _stabilized(self, wanted: int, replicas: int, now: float) -> int:
        behavior = self.behavior
        longest = max(behavior.up_window, behavior.down_window)
        self._recommended = [(time, one) for time, one in self._recommended if time > now - longest]
        least = min([wanted, *(r for t, r in self._recommended if t > now - behavior.up_window)])
        most = max([wanted, *(r for t, r in self._recommended if t > now - behavior.down_window)])
        self._recommended.append((now, wanted))
        return min(max(replicas, least), most)

    def _bounded(self, wanted: int, replicas: int, now: float) -> int:
        if wanted > replicas:
            limit = max(self._up_to(policy, replicas, now) for policy in self.behavior.up)
            wanted = min(wanted, max(limit, replicas))
        elif wanted < replicas:
            limit = min(self._down_to(policy, replicas, now) for policy in self.behavior.down)
            wanted = max(wanted, min(limit, replicas))
        return min(max(wanted, self.least), self.most)

    def _start(self, policy: Policy, replicas: int, now: float) -> int:
        """Replicas at the start of the policy's period."""
        recent = (change for time, change in self._changes if time > now - policy.period)
        return replicas - sum(recent)

    def _up_to(self, policy: Policy, replicas: int, now: float) -> int:
        start = self._start(policy, replicas, now)
        if policy.kind == "Pods":
            return start + policy.value
        return math.ceil(start * (100 + policy.value) / 100)

    def _down_to(self, policy: Policy, replicas: int, now: float) -> int:
        start = self._start(policy, replicas, now)
        if policy.kind == "Pods":
            return start - policy.value
        return int(start * (100 - policy.value) / 100)
