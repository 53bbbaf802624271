"""What the status of a tool pool says, and when it says something new.

A pool is looked at every five seconds, and hundreds of statuses must not be written for nothing:
new is what a condition says, a number of replicas, or a generation. The reason of a pool that is
well changes all the time; it is written with the next news, or with what must not be forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peregrine_operator.decisions import Ready
from peregrine_operator.scaling import Condition, Decision
from peregrine_operator.view import Object
from peregrine_operator.writing import instant

USELESS = frozenset({"DeploymentMissing", "Forbidden", "Invalid", "NameTaken", "WrongSelector"})
"""Reasons for which nothing can be decided about a pool, whatever its load."""


class Unusable(Exception):
    """Nothing can be decided about the pool, and `ready` says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.ready = Ready("False", reason, message)


@dataclass(frozen=True, slots=True)
class Word:
    """What is news of a status."""

    conditions: frozenset[tuple[str, str, str]]
    replicas: int
    desired: int
    generation: int


def usable(one: Object) -> bool:
    """As far as its status tells."""
    said = one.status.get("conditions") or ()
    return not any(each["type"] == "Ready" and each["reason"] in USELESS for each in said)


def conditions(decision: Decision) -> dict[str, Ready]:
    """Ready, and the conditions of the decision."""
    made = {
        name: Ready(str(each.status), each.reason, each.message)
        for name, each in decision.conditions.items()
    }
    return {"Ready": _ready(decision), **made}


def word(said: Mapping[str, Ready], *, replicas: int, desired: int, generation: int) -> Word:
    news = {
        (name, each.status, "" if (name, each.status) == ("Ready", "True") else each.reason)
        for name, each in said.items()
    }
    return Word(frozenset(news), replicas, desired, generation)


def told(one: Object) -> Word:
    """What the status says now."""
    status = one.status
    said = {
        each["type"]: Ready(each["status"], each["reason"], "")
        for each in status.get("conditions") or ()
    }
    return word(
        said,
        replicas=int(status.get("currentReplicas", -1)),
        desired=int(status.get("desiredReplicas", -1)),
        generation=int(status.get("observedGeneration", -1)),
    )


def figures(
    decision: Decision, *, replicas: int, saved: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """The status but for its conditions."""
    made: dict[str, Any] = {
        "currentReplicas": replicas,
        "desiredReplicas": decision.desired,
        "lastDecision": {
            "time": instant(now),
            "reason": decision.reason,
            "message": decision.message,
        },
        "autoscaler": saved,
    }
    if decision.write is not None:
        made["lastScaleTime"] = instant(now)
    return made


def _ready(decision: Decision) -> Ready:
    """Whether the pool is looked after as its owner wants it."""
    none = Condition(False, "")
    for name in ("Conflicted", "NoReadyPods"):
        found = decision.conditions.get(name, none)
        if found.status:
            return Ready("False", found.reason or name, found.message)
    seen = decision.conditions.get("MetricsAvailable")
    if seen is not None and not seen.status:
        return Ready("False", seen.reason or "MetricsUnavailable", seen.message)
    return Ready("True", decision.reason, decision.message)
