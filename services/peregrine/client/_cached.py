"""`@cached`: a function whose results are kept.

    rates = CacheClient(identity=Identity("acme", "ada"))

    @cached(rates, namespace="rates", ttl=60, tags=["currency:{code}"])
    async def rate(code: str) -> float | None:
        return await ask_the_bank(code)

    async def main() -> None:
        async with rates:
            await rate("EUR")                      # asks the bank
            await rate(code="EUR")                 # does not
            await rates.invalidate(tag="currency:EUR")
            await rate("EUR")                      # asks again

While one call computes, here or in another process, all others with the same arguments wait for it.
A result that is None is a result. What the function raises is raised and not kept. Results belong
to the user on whose behalf the call is made; those of a function that gives every user of a tenant
the same may be `shared`.

A function that is not async is called through the cache from threads, which wait; the event loop
uses `.in_thread(...)`, which runs it in one.

Results are kept as JSON, and bytes as they are. A result that would come back as something else (a
tuple, a key that is no string) is a TypeError, unless a `codec` says how it is written.
"""

import asyncio
import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from hashlib import blake2b
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from peregrine.client._cache import CacheClient
from peregrine.client._values import CacheKey

P = ParamSpec("P")
T = TypeVar("T")

_BYTES, _JSON = b"b", b"j"

Text = str | Callable[..., str]
"""A name with the function's arguments in it, "price:{symbol}", or a function of the arguments."""


class Codec(Protocol):
    """How results are written down."""

    def encode(self, value: Any, /) -> bytes: ...

    def decode(self, utf8: bytes, /) -> Any: ...


class CachedFunction(Generic[P, T]):
    """An async function behind the cache."""

    def __init__(self, terms: "_Terms", function: Callable[P, Awaitable[T]]) -> None:
        self._terms = terms
        self._function = function
        functools.update_wrapper(self, function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await self._terms.call(
            functools.partial(self._function, *args, **kwargs), args, kwargs
        )
        return cast("T", result)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> CacheKey:
        """Where the result of that call is kept, for the current identity."""
        return self._terms.key(args, kwargs)

    async def forget(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Makes the result of that call untrue. Raises as `CacheClient.invalidate`."""
        await self._terms.client.invalidate(key=self._terms.key(args, kwargs))


class CachedInThreads(Generic[P, T]):
    """A function that is not async, behind the cache, for callers in threads."""

    def __init__(self, terms: "_Terms", function: Callable[P, T]) -> None:
        self._terms = terms
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for the result. Raises RuntimeError in a thread that runs an event loop, which it
        would stop."""
        loop = self._terms.client.loop
        if loop is None:
            raise RuntimeError("the cache client is not open: use it with `async with`")
        if _runs_a_loop():
            raise RuntimeError("this would stop the event loop: use `await ….in_thread(…)` here")
        return asyncio.run_coroutine_threadsafe(self.in_thread(*args, **kwargs), loop).result()

    async def in_thread(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result; the function runs in a thread when it has to."""
        result = await self._terms.call(
            functools.partial(asyncio.to_thread, self._function, *args, **kwargs), args, kwargs
        )
        return cast("T", result)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> CacheKey:
        """Where the result of that call is kept, for the current identity."""
        return self._terms.key(args, kwargs)

    async def forget(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Makes the result of that call untrue. Raises as `CacheClient.invalidate`."""
        await self._terms.client.invalidate(key=self._terms.key(args, kwargs))


class _Decorator(Protocol):
    # A coroutine function is a function, too; the first that fits is taken.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> CachedFunction[P, T]: ...

    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedInThreads[P, T]: ...


def cached(
    client: CacheClient,
    *,
    namespace: str,
    ttl: float | None = None,
    tags: Iterable[Text] | Callable[..., Iterable[str]] = (),
    key: Text | None = None,
    shared: bool = False,
    absent: Callable[[Any], bool] | None = None,
    codec: Codec | None = None,
    revalidate: bool = False,
) -> _Decorator:
    """Keeps the results of a function.

    Args:
      client: open while the function is called.
      namespace: 1 to 128 of [A-Za-z0-9_.:-].
      ttl: seconds that a result lives at most; by default what the namespace's policy says.
      tags: by which results are made untrue.
      key: tells calls apart; by default the function's name and all its arguments, which must be
        JSON then.
      shared: one result for all users of a tenant.
      absent: whether a result says that there is nothing; such a one is kept for 5 s.
      codec: how results are written down.
      revalidate: the function only reads, so a few calls may be made to see how fast its results
        change (see `CacheClient.get_or_compute`).
    """

    def decorate(function: Callable[..., Any]) -> Any:
        terms = _Terms(
            client=client,
            function=function,
            namespace=namespace,
            ttl=ttl,
            tags=tags,
            name=key,
            shared=shared,
            absent=absent,
            codec=codec or _Json(),
            revalidate=revalidate,
        )
        if inspect.iscoroutinefunction(function):
            return CachedFunction(terms, function)
        return CachedInThreads(terms, function)

    return cast("_Decorator", decorate)


class _Terms:
    """What was said of one function."""

    def __init__(
        self,
        *,
        client: CacheClient,
        function: Callable[..., Any],
        namespace: str,
        ttl: float | None,
        tags: Iterable[Text] | Callable[..., Iterable[str]],
        name: Text | None,
        shared: bool,
        absent: Callable[[Any], bool] | None,
        codec: Codec,
        revalidate: bool,
    ) -> None:
        self.client = client
        self._signature = inspect.signature(function)
        self._function = f"{function.__module__}.{function.__qualname__}"
        self._namespace = namespace
        self._ttl = ttl
        self._tags = tags if callable(tags) else tuple(tags)
        self._name = name
        self._shared = shared
        self._absent = absent
        self._codec = codec
        self._revalidate = revalidate

    async def call(
        self, compute: Callable[[], Awaitable[Any]], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        codec, absent = self._codec, self._absent
        computed: list[Any] = []

        async def encoded() -> bytes:
            result = await compute()
            written = codec.encode(result)
            computed.append(result)
            return written

        found = await self.client.get_or_compute(
            self.key(args, kwargs),
            encoded,
            ttl=self._ttl,
            tags=self._texts(args, kwargs),
            absent=None if absent is None else lambda _: absent(computed[-1]),
            revalidate=self._revalidate,
        )
        return codec.decode(found.value)

    def key(self, args: Any, kwargs: dict[str, Any]) -> CacheKey:
        if self._name is not None:
            parts = [self._text(self._name, args, kwargs)]
        else:
            parts = [self._function, self._canonical(args, kwargs)]
        digest = blake2b("\0".join(parts).encode(), digest_size=32).digest()
        return self.client.key(self._namespace, digest, shared=self._shared)

    def _texts(self, args: Any, kwargs: dict[str, Any]) -> list[str]:
        if callable(self._tags):
            return list(self._tags(*args, **kwargs))
        return [self._text(each, args, kwargs) for each in self._tags]

    def _text(self, text: Text, args: Any, kwargs: dict[str, Any]) -> str:
        if callable(text):
            return text(*args, **kwargs)
        return text.format(**self._bound(args, kwargs)) if "{" in text else text

    def _canonical(self, args: Any, kwargs: dict[str, Any]) -> str:
        bound = self._bound(args, kwargs)
        try:
            return json.dumps(bound, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the arguments of {self._function} cannot tell its calls apart ({error}): "
                "say with `key` what does"
            ) from error

    def _bound(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Json:
    def encode(self, value: Any, /) -> bytes:
        if isinstance(value, bytes):
            return _BYTES + value
        try:
            text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"a result cannot be kept as JSON ({error}): give a `codec`") from error
        if not _same(json.loads(text), value):
            raise TypeError(
                f"a result of type {type(value).__name__} would come back changed: give a `codec`"
            )
        return _JSON + text.encode()

    def decode(self, utf8: bytes, /) -> Any:
        return utf8[1:] if utf8[:1] == _BYTES else json.loads(utf8[1:])


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types at every depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
