"""A CachePolicy as it is kept, tuned and told about: from its spec and status to plain values.

What the cache should hold is the spec, with the time to live that tuning has found where the mode
is Active. That is in the status before the cache is told, so whoever finds it in the cache knows
that it was no stranger, whatever became of the process that wrote it.
"""

from collections.abc import Mapping
from typing import Any

import structlog

from peregrine.api.cache.v1 import cache_pb2
from peregrine.client import resources
from peregrine.client.resources import ResourceError
from peregrine_operator import ttl
from peregrine_operator.decisions import Ready
from peregrine_operator.evidence import NoData
from peregrine_operator.ttl import Decision, State
from peregrine_operator.view import Object
from peregrine_operator.writing import instant

PAUSED = "cache.peregrine.dev/paused"
FIRST_TTL, LONGEST_TTL = 3600.0, 86_400.0

log = structlog.get_logger(__name__)


def wanted(one: Object) -> tuple[cache_pb2.Policy | None, str]:
    """What the spec says; or None, and what is wrong with it."""
    manifest = {
        "apiVersion": resources.API_VERSION,
        "kind": "CachePolicy",
        "metadata": {"name": one.key.name},
        "spec": one.spec,
    }
    try:
        value = resources.read(manifest, source=str(one.key)).value
    except ResourceError as error:
        return None, "; ".join(f"{each.field} {each.message}" for each in error.problems)
    return (value, "") if isinstance(value, cache_pb2.Policy) else (None, "")


def target(
    one: Object, policy: cache_pb2.Policy, held: cache_pb2.Policy | None
) -> cache_pb2.Policy:
    """What the cache should hold: the spec, and what tuning found since it last changed its ttl."""
    made = cache_pb2.Policy()
    made.CopyFrom(policy)
    found = _tuned(one, policy, held)
    if found is not None:
        made.ttl.FromNanoseconds(int(found * 1e9))
    return made


def moved(policy: cache_pb2.Policy, held: cache_pb2.Policy, decision: Decision) -> cache_pb2.Policy:
    """What the cache holds, with what was decided."""
    made = cache_pb2.Policy()
    made.CopyFrom(held)
    made.ClearField("version")
    made.ttl.FromNanoseconds(int(decision.ttl * 1e9))
    if policy.HasField("stale_while_revalidate"):
        most = policy.stale_while_revalidate.ToNanoseconds() / 1e9
        extra = min(most, decision.while_revalidate)
        made.stale_while_revalidate.FromNanoseconds(int(extra * 1e9))
    return made


def same(target: cache_pb2.Policy, held: cache_pb2.Policy) -> bool:
    """Whether the cache holds what it should, whichever version it is.

    How long it may serve stale values meanwhile follows the time to live, and is not compared.
    """
    one, other = cache_pb2.Policy(), cache_pb2.Policy()
    one.CopyFrom(target)
    other.CopyFrom(held)
    for each in (one, other):
        each.ClearField("version")
        if each.mode == cache_pb2.POLICY_MODE_ACTIVE:
            each.ClearField("stale_while_revalidate")
    return one == other


def bounds(one: Object, policy: cache_pb2.Policy) -> ttl.Policy:
    annotations = one.body.get("metadata", {}).get("annotations") or {}
    longest = policy.max_ttl.ToNanoseconds() / 1e9 if policy.HasField("max_ttl") else LONGEST_TTL
    least = policy.min_ttl.ToNanoseconds() / 1e9 if policy.HasField("min_ttl") else 5.0
    return ttl.Policy(
        lowest=least,
        highest=longest,
        stale_share=policy.max_stale_fraction or 0.05,
        active=policy.mode == cache_pb2.POLICY_MODE_ACTIVE,
        paused=str(annotations.get(PAUSED, "false")).lower() not in ("false", "0", "no"),
    )


def state(one: Object, in_force: float) -> State:
    saved = one.status.get("tuner")
    if isinstance(saved, dict) and saved:
        try:
            return State.from_status(saved)
        except ValueError as error:
            log.warning("tuner_not_read", resource=str(one.key), error=error)
    return State(ttl=in_force)


def seconds(policy: cache_pb2.Policy) -> float | None:
    """The time to live of a policy, where it says one."""
    return policy.ttl.ToNanoseconds() / 1e9 if policy.HasField("ttl") else None


def applied(one: Object, held: cache_pb2.Policy, in_force: float | None) -> Mapping[str, Any]:
    """What the status says once the cache holds a policy."""
    return {
        "applied": {
            "generation": one.generation,
            "version": held.version,
            "ttl": str(one.spec.get("ttl", "")),
        },
        "ttl": written(in_force or seconds(held) or FIRST_TTL),
    }


def decided(decision: Decision, now: float) -> Mapping[str, Any]:
    """What the status says of a decision, its memory included."""
    said: dict[str, Any] = {
        "recommendedTtl": written(decision.proposed),
        "lastDecision": {
            "time": instant(now),
            "reason": str(decision.reason),
            "message": decision.message,
        },
        "tuner": decision.state.to_status(),
    }
    if decision.apply:
        said["lastChangeTime"] = instant(now)
    return said


def ready(decision: Decision, sample: ttl.Sample | NoData) -> Ready:
    if isinstance(sample, NoData):
        why = f"the policy holds as it is; it is not tuned: {sample.why}"
        return Ready("True", "AppliedNotTuned", why)
    return Ready("True", "Applied", f"{decision.reason}: {decision.message}")


def written(duration: float) -> str:
    """Seconds as Kubernetes writes them, in the largest units that are whole."""
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "m")):
        if duration >= size and duration % size == 0:
            return f"{duration / size:g}{unit}"
    return f"{duration:g}s"


def _tuned(one: Object, policy: cache_pb2.Policy, held: cache_pb2.Policy | None) -> float | None:
    """The time to live that tuning had found, where what it began with has not changed."""
    before = one.status.get("applied") or {}
    active = policy.mode == cache_pb2.POLICY_MODE_ACTIVE
    if not active or before.get("ttl", "") != str(one.spec.get("ttl", "")):
        return None
    found = (one.status.get("tuner") or {}).get("ttl")
    if not isinstance(found, int | float) or found <= 0:
        return seconds(held) if held is not None else None
    return bounds(one, policy).within(float(found))
