"""Loaders: how a namespace's values are computed when nobody has asked for them yet.

A loader is registered for a namespace, or for all that begin with a prefix ("tool:*"), in a module
that PEREGRINE_CACHE_LOADERS names:

    from peregrine.cache.loaders import Loaded, Wanted, loader, query

    @loader("rates")
    async def rate(wanted: Wanted) -> Loaded | None:      # any function
        return Loaded(await fetch(wanted.address.key.decode()), ttl=60)

    # a query of the database that the cache is in
    cities = query("cities", "SELECT name FROM geo.cities WHERE id = $1")

Results of tools are loaded by calling the tool again, with the arguments that were stored beside
the count of the key, or with those that a list gives as keys; the worker that runs it stores what
it gives, under the key it has always had. It is called for whoever the work is for, and never for
anybody else. A WRITE is not called: no idempotency key comes with these calls, and without one a
worker runs none.
"""

import importlib
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, TypeAlias

import structlog

from peregrine.api.tools.v1 import tools_pb2
from peregrine.cache.frequencies import Wanted
from peregrine.client import ToolsClient
from peregrine.kit import context
from peregrine.kit.errors import PeregrineError, StartRefused, Unauthenticated
from peregrine.kit.postgres import Database

__all__ = ["Loaded", "Loader", "Loaders", "Registered", "Wanted", "loader", "query"]

_TOOLS = "tool:"
_QUERY_SECONDS = 10.0
_TOOL_SECONDS = 60.0
_EXECUTED = (tools_pb2.CACHE_TIER_UNSPECIFIED, tools_pb2.CACHE_TIER_NONE)

log = structlog.get_logger(__name__)


class Loaded(NamedTuple):
    """A value and, in seconds, how long it may live at most (0: as the policy says)."""

    value: bytes
    ttl: float = 0.0
    tags: tuple[str, ...] = ()


STORED = Loaded(b"stored")
"""What a loader returns that has stored the value itself."""

PRESENT = Loaded(b"present")
"""What a loader returns that found it stored already, where only it could look."""

Loader: TypeAlias = Callable[[Wanted], Awaitable[Loaded | None]]


class Registered(NamedTuple):
    """A module's word that a namespace is loaded by a function, or by a query."""

    namespace: str
    function: Loader | None = None
    sql: str = ""


def loader(namespace: str) -> Callable[[Loader], Registered]:
    """Registers a function that computes the value of a key; None when there is none."""
    return lambda function: Registered(namespace, function)


def query(namespace: str, sql: str) -> Registered:
    """Registers a query whose $1 is the key as text; its rows, as JSON, are the value."""
    return Registered(namespace, sql=sql)


class Loaders:
    """Those of this process."""

    def __init__(self, by_namespace: dict[str, Loader]) -> None:
        self._loaders = by_namespace

    def find(self, namespace: str) -> Loader | None:
        found = self._loaders.get(namespace)
        if found is None:
            prefix, colon, _ = namespace.partition(":")
            found = self._loaders.get(f"{prefix}:*") if colon else None
        return found


def load_modules(names: Iterable[str], *, database: Database, tools: ToolsClient | None) -> Loaders:
    """Imports the modules; raises `StartRefused` when one cannot be."""
    found: dict[str, Loader] = {}
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise StartRefused(
                f"PEREGRINE_CACHE_LOADERS names {name!r}, which cannot be imported: {error}"
            ) from error
        for each in vars(module).values():
            if isinstance(each, Registered):
                function = each.function or _by_query(database, each.sql)
                if found.setdefault(each.namespace, function) is not function:
                    raise StartRefused(f"two loaders are registered for {each.namespace!r}")
    if tools is not None:
        found.setdefault(f"{_TOOLS}*", _by_tool(tools))
    return Loaders(found)


def _by_query(database: Database, sql: str) -> Loader:
    async def load(wanted: Wanted) -> Loaded | None:
        address = wanted.address
        async with database.transaction(
            address.tenant, user=address.user or None, timeout=_QUERY_SECONDS
        ) as conn:
            await conn.execute("cache_loader_begin", "SET TRANSACTION READ ONLY")
            rows = await conn.fetch("cache_loader_query", sql, address.key.decode())
        if not rows:
            return None
        return Loaded(json.dumps([dict(row) for row in rows], default=str).encode())

    return load


def _by_tool(tools: ToolsClient) -> Loader:
    async def load(wanted: Wanted) -> Loaded | None:
        address = wanted.address
        current = context.current()
        who = current.identity if current is not None else None
        if who is None or who.tenant != address.tenant or address.user not in ("", who.user):
            return None
        arguments = wanted.source or _arguments(address.key)
        if not arguments:
            return None  # nobody said with which
        name = address.namespace.removeprefix(_TOOLS)
        try:
            with context.bind(timeout=_TOOL_SECONDS):
                result = await tools.execute_tool(name, arguments, idempotency_key="")
        except Unauthenticated:
            raise  # whoever it is for cannot prove that any more: the others would fail, too
        except PeregrineError as error:
            log.info("tool_not_warmed", tool=name, reason=error.reason)
            return None
        if result.status != tools_pb2.TOOL_STATUS_SUCCEEDED:
            log.info("tool_not_warmed", tool=name, reason=result.error.reason)
            return None
        return STORED if result.cache_tier in _EXECUTED else PRESENT

    return load


def _arguments(key: bytes) -> bytes:
    """The key itself, where it is a JSON object; the keys of kept results are digests."""
    try:
        return key if isinstance(json.loads(key), dict) else b""
    except (ValueError, RecursionError):
        return b""
