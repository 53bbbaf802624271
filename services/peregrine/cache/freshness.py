"""How long a value is good for, decided whenever it is read. Pure: time and chance are arguments.

A value has the time at which it was true. How long it lives from then on is what the namespace's
policy says *now*, within what the writer allowed, so a changed policy holds for what is there, too.
Past its time a value is `STALE` while the policy lets callers have it during a refresh, then
`LAST_RESORT` while it is still better than an error, then `OVER`. A policy that says nothing of
refreshes allows a thirtieth of the time to live for them, two minutes at most, and never past what
writer and policy allow at the very most (ADR 0019).

A time to live that comes from a policy or is the default is stretched or shortened by up to a
tenth, the same for every reader of that entry: entries that were stored together do not end
together. One that the writer gave is kept to the letter.
"""

import enum
import math
from dataclasses import dataclass

from peregrine.cache.entry import Entry

DEFAULT_TTL = 3_600.0
MAX_TTL = 30 * 86_400.0
ABSENT_TTL = 5.0

_STALE_SHARE, _STALE_SECONDS = 1 / 30, 120.0
_JITTER = 0.1
_SCATTER = 2_654_435_761  # Knuth's multiplier: neighbouring versions fall far apart
# What is over stays a little longer, so that its successor can be compared with it.
_KEPT_FOR_COMPARISON = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a policy says, in seconds. `ttl` and `max_ttl` are 0 where it says nothing, and
    `stale_while_revalidate` is None."""

    ttl: float = 0.0
    min_ttl: float = 0.0
    max_ttl: float = 0.0
    stale_while_revalidate: float | None = None
    stale_if_error: float = 0.0
    never: bool = False


NO_POLICY = Terms()


class State(enum.Enum):
    FRESH = enum.auto()
    STALE = enum.auto()
    LAST_RESORT = enum.auto()
    OVER = enum.auto()


def time_to_live(entry: Entry, terms: Terms) -> float:
    """Seconds from the entry's fetch time on, as of now."""
    cap = entry.ttl or MAX_TTL
    if entry.absent:
        return min(cap, ABSENT_TTL)
    given = entry.first_ttl or entry.ttl
    if not terms.ttl:
        ttl = given or DEFAULT_TTL * _jitter(entry.version)
    else:
        ttl = terms.ttl * _jitter(entry.version)
    if terms.max_ttl:
        ttl = min(ttl, terms.max_ttl)
    return min(max(ttl, terms.min_ttl), cap)


def judge(entry: Entry, terms: Terms, now: float) -> tuple[State, float]:
    """The state of the entry, and its time to live."""
    ttl = time_to_live(entry, terms)
    past = now - entry.fetch_time - ttl
    if past < 0:
        return State.FRESH, ttl
    if entry.absent:
        return State.OVER, ttl
    if past < while_revalidate(entry, terms, ttl):
        return State.STALE, ttl
    if past < terms.stale_if_error:
        return State.LAST_RESORT, ttl
    return State.OVER, ttl


def while_revalidate(entry: Entry, terms: Terms, ttl: float) -> float:
    """Seconds past its time to live for which callers that allow it get the entry meanwhile."""
    if terms.stale_while_revalidate is not None:
        return terms.stale_while_revalidate
    most = min(entry.ttl or MAX_TTL, terms.max_ttl or MAX_TTL)
    return max(min(ttl * _STALE_SHARE, _STALE_SECONDS, most - ttl), 0.0)


def kept_until(entry: Entry, terms: Terms) -> float:
    """Seconds since 1970 until which tiers should hold the entry."""
    ttl = time_to_live(entry, terms)
    grace = min(ttl, _KEPT_FOR_COMPARISON)
    if not entry.absent:
        grace = max(grace, while_revalidate(entry, terms, ttl), terms.stale_if_error)
    return entry.fetch_time + ttl + grace


def renew_early(remaining: float, cost: float, chance: float) -> bool:
    """Whether this reader should renew an entry that still lives for `remaining` seconds.

    XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB
    2015) with beta 1: the likelier, the nearer the end and the longer computing takes.

    Args:
      cost: seconds that computing it took.
      chance: uniform in (0, 1].
    """
    return -cost * math.log(chance) >= remaining


def _jitter(version: int) -> float:
    return 1 - _JITTER + 2 * _JITTER * ((version * _SCATTER) % 2**32) / 2**32
