"""Results that are still true: kept in the near cache of this worker and in the cache service.

A result is found again under the tool's name and version, what the tool's source text says, the
version of what it reads, and the canonical form of its arguments (keys sorted at every depth); and
only by the user, or the tenant, whose it is. Kept are successes of PURE and READ tools that said
how fast their truth changes. How long: the cost class says for how long at first, a policy of the
namespace `tool:NAME` tunes that, and the change class (or what the result says of itself) caps it.
Arguments that name a moment or chance (`timestamp`, `nonce`, …) make a result that nobody will ask
for again, so it is not kept; nor is one that is marked private.

Results carry tags of what they are about. A WRITE makes those untrue that carry a tag which it says
it changes, and so are the results of reads that began before it ended.

Storing goes on behind the answer, in a bounded number of tasks; what exceeds them is not stored.
Nothing here fails but `forget`: a cache that is away is one without entries. What could not be made
untrue then is tried again for a minute.
"""

import asyncio
import inspect
import json
import random
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client import CacheClient, CacheKey
from peregrine.kit import context
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError
from peregrine.tools.definition import ChangeClass, CostClass, Definition, Effect, Scope
from peregrine.tools.output import Shown

MAX_STORING = 64

_FIRST_SECONDS = {
    CostClass.DEFAULT: 3_600.0,
    CostClass.EXPENSIVE: 86_400.0,
    CostClass.FREQUENT: 1_800.0,
}
_MAX_SECONDS = {
    ChangeClass.PURE: 30 * 86_400.0,
    ChangeClass.SLOW: 86_400.0,
    ChangeClass.LIVE: 60.0,
}
# As they stand without '_', '-' and capitals, so that currentTime is one, too.
_UNCACHEABLE = frozenset({"timestamp", "random", "nonce", "currenttime"})
_SUSPICIOUS = re.compile("stamp|random|nonce|time", re.IGNORECASE)
_STORE_SECONDS = 5.0
_INVALIDATE_SECONDS = 1.0
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 64.0
_PLACE = re.compile(r"\{(\w+)\}")
_MAX_TAG = 128
# What the cache takes of arguments, to compute a result again.
_MAX_SOURCE = 4 * 1024
_MAX_FINGERPRINTS = 1_000
_TIERS = {
    cache_pb2.TIER_NEAR: "near",
    cache_pb2.TIER_REDIS: "redis",
    cache_pb2.TIER_POSTGRES: "postgres",
}

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Place:
    """Where the result of one call is kept: for `first` seconds where no policy says otherwise,
    never for more than `most`. `source`: the arguments, by which the cache can have it computed
    again. `epoch`: what was untrue when the call began."""

    key: CacheKey
    first: float
    most: float
    tags: tuple[str, ...] = ()
    source: bytes = b""
    epoch: int | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A result found. `tier`: "near", "redis" or "postgres"; times in seconds."""

    shown: Shown
    execution_seconds: float
    tier: str
    age: float


class Results:
    """The results of one worker. `close` ends what is being stored.

    Args:
      on_unstored: told why (UPPER_SNAKE) a result that may be kept was not stored.
      failures: counts what failed behind an answer: storing, and making untrue.
    """

    def __init__(
        self, *, cache: CacheClient, on_unstored: Callable[[str], object], failures: Counter
    ) -> None:
        self._cache = cache
        self._on_unstored = on_unstored
        self._failures = failures
        self._canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
        # By the definition's id; it is held, so that the id stays its own.
        self._fingerprints: dict[int, tuple[Definition, bytes]] = {}
        self._storing: set[asyncio.Task[None]] = set()

    async def place(
        self, definition: Definition, arguments: Mapping[str, Any], who: Identity
    ) -> Place | None:
        """Where the result of this call is kept; None when it must not be."""
        if not keeps(definition):
            return None
        version = b""
        if definition.source_version is not None:
            try:
                version = (await definition.source_version(who.tenant)).encode()
            except PeregrineError:
                return None  # nobody knows whether it changed
        try:
            canonical = self._canonical(arguments)
            if names_a_moment(arguments, canonical, definition.uncacheable):
                return None
        except RecursionError:
            return None
        digest = blake2b(self._fingerprint(definition), digest_size=32)
        digest.update(b"%d %b " % (len(version), version))
        source = canonical.encode()
        digest.update(source)
        key = self._cache.key(
            f"tool:{definition.name}",
            digest.digest(),
            shared=definition.scope is Scope.TENANT,
            identity=who,
        )
        most = _MAX_SECONDS[definition.change]
        about = tags(definition.tags, arguments)
        kept = source if len(source) <= _MAX_SOURCE else b""
        return Place(key, seconds(definition), most, about, kept)

    async def find(self, place: Place) -> Kept | None:
        look = await self._cache.look(place.key)
        place.epoch = look.epoch
        cached = look.cached
        if cached is None:
            return None
        try:
            message = tools_pb2.ToolResult.FromString(cached.value)
        except DecodeError:
            message = tools_pb2.ToolResult()
        if len(message.content) != 1:
            log.warning("result_unreadable", namespace=place.key.message.namespace)
            return None
        return Kept(
            Shown(message.content[0].text, message.structured_content.utf8),
            cached.cost,
            _TIERS[cached.tier],
            cached.age,
        )

    def keep(self, place: Place, shown: Shown, *, execution_seconds: float, started: float) -> None:
        """Stores a result in the background. `started`: of the execution, on `time.monotonic()`;
        the result is as old as that."""
        if shown.private:
            self._on_unstored("PRIVATE")
        elif shown.cut:
            self._on_unstored("TOO_LARGE")
        elif len(self._storing) >= MAX_STORING:
            self._on_unstored("TOO_MANY")
        else:
            self._later(self._store(place, shown, execution_seconds, started))

    async def invalidate(
        self, definition: Definition, arguments: Mapping[str, Any], who: Identity
    ) -> None:
        """Makes untrue what a WRITE says that it changes."""
        told = tags(definition.invalidates, arguments)
        if not told:
            return
        try:
            with context.bind(identity=who, detach=True, timeout=_INVALIDATE_SECONDS):
                await self._strike(told)
        except PeregrineError as error:
            self._on_unstored("NOT_INVALIDATED")
            log.warning("results_not_invalidated", tool=definition.name, reason=error.reason)
            if len(self._storing) < MAX_STORING:
                self._later(self._strike_later(told, who))

    async def forget(
        self, definition: Definition, arguments: Mapping[str, Any] | None, who: Identity
    ) -> None:
        """Makes all results of a tool untrue, or what the caller would be shown for `arguments`.

        Raises:
          Unavailable: nobody could be told.
        """
        if arguments is None:
            await self._cache.invalidate(namespace=f"tool:{definition.name}", identity=who)
            return
        place = await self.place(definition, arguments, who)
        if place is not None:
            await self._cache.invalidate(key=place.key)

    async def _strike(self, told: Collection[str]) -> None:
        """By tag; one that begins with `tool:` is all of that tool's results."""
        for tag in told:
            if tag.startswith("tool:"):
                await self._cache.invalidate(namespace=tag)
            else:
                await self._cache.invalidate(tag=tag)

    async def _strike_later(self, told: Collection[str], who: Identity) -> None:
        pause = _FIRST_PAUSE
        while pause < _LAST_PAUSE:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause *= 2
            try:
                with context.bind(identity=who, detach=True, timeout=_STORE_SECONDS):
                    await self._strike(told)
                return
            except PeregrineError as error:
                self._failures.inc()
                log.warning("results_not_invalidated", reason=error.reason)
            except Exception as error:
                # The top of a background task: the next try may go better.
                self._failures.inc()
                log.error("results_not_invalidated", error=type(error).__name__, exc_info=error)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="tool-results")
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def close(self) -> None:
        for task in self._storing:
            task.cancel()
        if self._storing:
            await asyncio.wait(self._storing)

    async def _store(
        self, place: Place, shown: Shown, execution_seconds: float, started: float
    ) -> None:
        most = place.most if shown.ttl is None else min(place.most, shown.ttl)
        # Nothing but what the tool said: two executions that say the same must be the same value.
        message = tools_pb2.ToolResult(content=[common_pb2.ContentBlock(text=shown.text)])
        if shown.data:
            message.structured_content.utf8 = shown.data
        try:
            # The call that caused it may be over before this is.
            with context.bind(detach=True, timeout=_STORE_SECONDS):
                reason = await self._cache.set(
                    place.key,
                    message.SerializeToString(),
                    ttl=most,
                    first_ttl=min(place.first, most),
                    tags=place.tags,
                    cost=execution_seconds,
                    born=started,
                    epoch=place.epoch,
                    source=place.source,
                )
        except Exception as error:
            # The top of a background task: the answer was given, and is computed again next time.
            self._failures.inc()
            log.error("result_not_stored", error=type(error).__name__, exc_info=error)
            reason = "FAILED"
        if reason:
            self._on_unstored(reason)

    def _fingerprint(self, definition: Definition) -> bytes:
        known = self._fingerprints.get(id(definition))
        if known is None:
            if len(self._fingerprints) >= _MAX_FINGERPRINTS:
                self._fingerprints.clear()
            known = self._fingerprints[id(definition)] = definition, fingerprint(definition)
        return known[1]


def keeps(definition: Definition) -> bool:
    """Whether results of the tool are kept at all."""
    return (
        definition.cacheable
        and definition.effect is not Effect.WRITE
        and definition.change is not ChangeClass.NEVER
    )


def seconds(definition: Definition) -> float:
    """How long a result is kept at first."""
    first = definition.ttl or _FIRST_SECONDS[definition.cost]
    return min(first, _MAX_SECONDS[definition.change])


def tags(templates: Iterable[str], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Tags with the arguments that they name put in; one whose argument is missing is left out.

    A tag has at most 128 visible characters of ASCII, so what is put in is escaped as in a URL, and
    a long one ends in its digest.
    """
    found = []
    for template in templates:
        try:
            tag = _PLACE.sub(lambda match: _put_in(arguments[match[1]]), template)
        except (KeyError, TypeError):
            continue
        if len(tag) > _MAX_TAG:
            digest = blake2b(tag.encode(), digest_size=16).hexdigest()
            tag = f"{tag[: _MAX_TAG - len(digest) - 1]}~{digest}"
        found.append(tag)
    return tuple(dict.fromkeys(found))


def _put_in(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return quote(str(value), safe="")


def fingerprint(definition: Definition) -> bytes:
    """Differs when the tool does: by its version, and by the text of the module it is written in,
    because who edits a function does not always think of its version."""
    digest = blake2b(digest_size=32)
    function = inspect.unwrap(definition.function)
    try:
        source = Path(inspect.getsourcefile(function) or "").read_bytes()
    except (OSError, TypeError):
        source = b""  # no text beside the code: the version alone has to do
    parts = (
        definition.name,
        str(definition.version),
        definition.description,
        json.dumps(definition.input_schema, sort_keys=True),
    )
    for part in (*(each.encode() for each in parts), source):
        digest.update(b"%d " % len(part))
        digest.update(part)
    return digest.digest()


def names_a_moment(arguments: Any, canonical: str, further: Collection[str]) -> bool:
    """Whether an argument, at any depth, has a name that keeps the result out of the cache.

    `canonical` is the text of the arguments, where most of them can be seen to have none.
    """
    if not further and not _SUSPICIOUS.search(canonical):
        return False
    names = _UNCACHEABLE | {_plain(name) for name in further}
    left = [arguments]
    while left:
        match left.pop():
            case dict() as mapping:
                if any(_plain(name) in names for name in mapping):
                    return True
                left.extend(mapping.values())
            case list() as items:
                left.extend(items)
    return False


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
