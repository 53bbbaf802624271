"""The policies in force in this process, and what makes one valid.

A policy belongs to a tenant. A tenant that has none for a namespace has that of the operator's
tenant, which is how whoever runs Peregrine sets them for all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import duration_pb2

from peregrine.api.cache.v1 import cache_pb2
from peregrine.cache.freshness import MAX_TTL, NO_POLICY, Terms
from peregrine.kit.errors import InvalidArgument

MAX_POLICIES = 1_000

_DURATIONS = ("ttl", "min_ttl", "max_ttl", "stale_while_revalidate", "stale_if_error")
_POSITIVE = frozenset({"ttl", "max_ttl"})


@dataclass(frozen=True, slots=True)
class InForce:
    tenant: str
    policy: cache_pb2.Policy


class Policies:
    """`operator`: the tenant whose policies hold for everyone who has none."""

    def __init__(self, *, operator: str) -> None:
        self.operator = operator
        self._terms: dict[tuple[str, str], Terms] = {}
        self._policies: dict[tuple[str, str], cache_pb2.Policy] = {}

    def __iter__(self) -> Iterator[InForce]:
        return iter([InForce(tenant, each) for (tenant, _), each in self._policies.items()])

    def put(self, tenant: str, policy: cache_pb2.Policy) -> None:
        place = tenant, policy.namespace
        self._policies[place] = policy
        self._terms[place] = terms_of(policy)

    def terms(self, tenant: str, namespace: str) -> Terms:
        terms = self._terms
        if not terms:
            return NO_POLICY
        own = terms.get((tenant, namespace))
        return own if own is not None else terms.get((self.operator, namespace), NO_POLICY)


def checked(policy: cache_pb2.Policy) -> cache_pb2.Policy:
    """The policy with its defaults, as it is kept (without its version).

    Raises:
      InvalidArgument: POLICY_INVALID, naming every field that is wrong.
    """
    violations: list[tuple[str, str]] = []
    for name in _DURATIONS:
        if not policy.HasField(name):
            continue
        seconds = _seconds(getattr(policy, name))
        if not 0 <= seconds <= MAX_TTL or (name in _POSITIVE and not seconds):
            least = "above 0" if name in _POSITIVE else "0 or more"
            violations.append((f"policy.{name}", f"is not {least} and at most 30 days"))
    terms = terms_of(policy)
    if terms.max_ttl and terms.min_ttl > terms.max_ttl:
        violations.append(("policy.min_ttl", "is longer than max_ttl"))
    if terms.ttl and terms.ttl < terms.min_ttl:
        violations.append(("policy.ttl", "is shorter than min_ttl"))
    if terms.max_ttl and terms.ttl > terms.max_ttl:
        violations.append(("policy.ttl", "is longer than max_ttl"))
    if not 0 <= policy.max_stale_fraction <= 1:
        violations.append(("policy.max_stale_fraction", "is not between 0 and 1"))
    if policy.mode not in cache_pb2.PolicyMode.values():
        violations.append(("policy.mode", "is not a mode that is known"))
    if violations:
        raise InvalidArgument(
            "; ".join(f"{field} {what}" for field, what in violations),
            reason="POLICY_INVALID",
            violations=violations,
        )
    kept = cache_pb2.Policy()
    kept.CopyFrom(policy)
    kept.version = 0
    kept.mode = policy.mode or cache_pb2.POLICY_MODE_OBSERVE
    return kept


def terms_of(policy: cache_pb2.Policy) -> Terms:
    given = {name: _seconds(getattr(policy, name)) for name in _DURATIONS if policy.HasField(name)}
    return Terms(**given, never=policy.never)


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
