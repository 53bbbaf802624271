"""What a cache may show, told by something that caches nothing and sees all.

The truth is a value per place (tenant, user or all of the tenant, namespace). A value may be shown
while it is true, and after that for as long as its writer and the policy allow; not once somebody
made it untrue and whoever shows it must know; and at no other place, ever.
"""

from collections import defaultdict
from dataclasses import dataclass, field

Place = tuple[str, str, str]

DEFAULT_TTL = 3_600.0
JITTER = 1.1
_SLACK = 0.01


@dataclass(frozen=True, slots=True)
class Policy:
    """In seconds. `meanwhile`: while it is computed anew; None: a thirtieth of the time to live."""

    ttl: float = 0.0
    meanwhile: float | None = None
    on_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    value: bytes
    stale: bool
    near: bool


@dataclass
class Truth:
    """The values a place had. `until[i]`: when the one after it came; `begun[i]`: by how much
    clocks had gone back when it came; `not_before`: the oldest that may still be shown."""

    values: list[bytes] = field(default_factory=list)
    until: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    limits: dict[bytes, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    not_before: int = 0


class Oracle:
    def __init__(self) -> None:
        self.policies: dict[tuple[str, str], Policy] = {}
        self.hits = self.near_hits = self.stale_hits = 0
        self._truth: dict[Place, Truth] = {}
        self._number = 0
        # Time only goes on here; `_back` is how far the service's clock went back in all.
        self._now = self._back = 0.0

    def now(self, place: Place) -> bytes:
        """The value that is true."""
        if place not in self._truth:
            self._truth[place] = Truth()
            self._append(place)
        return self._truth[place].values[-1]

    def changes(self, place: Place) -> None:
        self.now(place)
        self._append(place)

    def made_untrue(self, place: Place, *, alone: bool) -> None:
        """All but what is true now: there, or in all of the tenant's namespace."""
        for each, truth in self._truth.items():
            if each == place or (not alone and (each[0], each[2]) == (place[0], place[2])):
                truth.not_before = len(truth.values) - 1

    def filled(self, place: Place, value: bytes, limits: dict[str, float]) -> None:
        """It may be kept from now on; `limits`: `ttl` or `first_ttl`, as its writer said."""
        self._truth[place].limits[value].append(limits)

    def passes(self, seconds: float) -> None:
        """Below 0: the clock is put back."""
        self._now += max(seconds, 0.0)
        self._back += max(-seconds, 0.0)

    def judge(self, place: Place, shown: Shown, how: str) -> None:
        """Raises `AssertionError`. `how`: what the reader allowed."""
        self.hits += 1
        self.near_hits += shown.near
        self.stale_hits += shown.stale
        self.now(place)
        truth = self._truth[place]
        assert shown.value in truth.values, f"{place} was never {shown.value!r}"
        index = truth.values.index(shown.value)
        assert index >= truth.not_before, f"{place}: {shown.value!r} was made untrue"
        assert how or not shown.stale, f"{place}: {shown.value!r} is stale and nobody allowed it"
        policy = self.policies.get((place[0], place[2]), Policy())
        filled = truth.limits[shown.value]
        most = max((_most(each, policy, shown.stale, how) for each in filled), default=0.0)
        over = 0.0 if index == len(truth.until) else self._now - truth.until[index]
        allowed = most + self._back - truth.begun[index] + _SLACK
        assert over <= allowed, f"{place}: {shown.value!r} is over since {over:g} s, not {most:g} s"

    def _append(self, place: Place) -> None:
        truth = self._truth[place]
        if truth.values:
            truth.until.append(self._now)
        self._number += 1
        truth.values.append(f"{'/'.join(place)} {self._number}".encode())
        truth.begun.append(self._back)


def _most(limits: dict[str, float], policy: Policy, stale: bool, how: str) -> float:
    """For how many seconds past its end a value may be shown."""
    cap = limits.get("ttl", float("inf"))
    ttl = min(policy.ttl * JITTER or next(iter(limits.values()), DEFAULT_TTL), cap)
    if not stale:
        return ttl
    meanwhile = policy.meanwhile
    if meanwhile is None:
        meanwhile = max(min(ttl / 30, 120.0, cap - ttl / JITTER * 0.9), 0.0)
    return ttl + (max(meanwhile, policy.on_error) if how == "computing_failed" else meanwhile)
