"""`@cached`: whose results are whose, what tells calls apart, and what comes back as it was."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peregrine.client import CacheClient, Identity, cached
from peregrine.kit import context
from peregrine.kit.errors import NotFound, Unauthenticated

ADA, BOB, OTHER = Identity("acme", "ada"), Identity("acme", "bob"), Identity("umbrella", "ada")


@pytest.fixture
async def cache(address: str) -> AsyncIterator[CacheClient]:
    async with CacheClient(address, entry_timeout=2.0) as client:
        with context.with_identity(ADA):
            yield client


class Calls(list[Any]):
    def __call__(self, call: Any) -> None:
        self.append(call)


async def test_the_same_call_is_made_once_however_its_arguments_are_written(
    cache: CacheClient,
) -> None:
    calls = Calls()

    @cached(cache, namespace="rates", ttl=60)
    async def rate(code: str, *, digits: int = 2) -> float:
        """The rate of a currency."""
        calls(code)
        return 1.25

    with context.with_identity(ADA):
        assert await rate("EUR") == await rate(code="EUR") == await rate("EUR", digits=2) == 1.25
        assert calls == ["EUR"]
        await rate("EUR", digits=3)
        await rate("CHF")
    assert calls == ["EUR", "EUR", "CHF"]
    assert (rate.__name__, rate.__doc__) == ("rate", "The rate of a currency.")


@pytest.mark.parametrize(
    "value", [None, 0, "", b"", b"\x00\xff", [], {}, False, [1, {"a": None}], "Köln", 1.5, 2**70]
)
async def test_what_comes_back_is_what_went_in(cache: CacheClient, value: Any) -> None:
    calls = Calls()

    @cached(cache, namespace="ns", ttl=60)
    async def give() -> Any:
        calls(1)
        return value

    with context.with_identity(ADA):
        for _ in range(3):
            found = await give()
            assert found == value and type(found) is type(value)
    assert calls == [1]


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": (1,)}, object(), float("nan"), {1}])
async def test_what_would_come_back_changed_is_refused(cache: CacheClient, value: Any) -> None:
    @cached(cache, namespace="ns", ttl=60)
    async def give() -> Any:
        return value

    with context.with_identity(ADA), pytest.raises(TypeError, match="codec"):
        await give()


async def test_a_codec_says_how_a_result_is_written(cache: CacheClient) -> None:
    class Pairs:
        def encode(self, value: tuple[int, int]) -> bytes:
            return b"%d,%d" % value

        def decode(self, utf8: bytes) -> tuple[int, ...]:
            return tuple(map(int, utf8.split(b",")))

    calls = Calls()

    @cached(cache, namespace="ns", ttl=60, codec=Pairs())
    async def pair() -> tuple[int, int]:
        calls(1)
        return 1, 2

    with context.with_identity(ADA):
        assert await pair() == await pair() == (1, 2)
    assert calls == [1]


async def test_tenants_and_users_never_get_each_others(cache: CacheClient) -> None:
    calls = Calls()

    @cached(cache, namespace="ns", ttl=60)
    async def own() -> str:
        calls(context.identity())
        return str(context.identity())

    @cached(cache, namespace="ns", ttl=60, shared=True)
    async def ours() -> str:
        return context.identity().tenant

    for _ in range(2):
        for who in (ADA, BOB, OTHER):
            with context.with_identity(who):
                assert await own() == str(who)
                assert await ours() == who.tenant
    assert calls == [ADA, BOB, OTHER]


async def test_without_an_identity_nothing_is_looked_up(cache: CacheClient) -> None:
    @cached(cache, namespace="ns", ttl=60)
    async def give() -> int:
        return 1

    def nobody() -> Any:
        return asyncio.create_task(give(), context=__import__("contextvars").Context())

    with pytest.raises(Unauthenticated):
        await nobody()


async def test_results_are_made_untrue_by_tag_by_call_and_by_namespace(cache: CacheClient) -> None:
    calls = Calls()

    @cached(cache, namespace="prices", ttl=60, tags=["price:{symbol}", "prices"])
    async def price(symbol: str) -> int:
        calls(symbol)
        return len(calls)

    with context.with_identity(ADA):
        assert [await price("A"), await price("B"), await price("A")] == [1, 2, 1]
        await cache.invalidate(tag="price:A")
        assert [await price("A"), await price("B")] == [3, 2]
        await price.forget("B")
        assert [await price("A"), await price("B")] == [3, 4]
        await cache.invalidate(tag="prices")
        assert [await price("A"), await price("B")] == [5, 6]
        await cache.invalidate(namespace="prices")
        assert await price("A") == 7


async def test_a_key_of_ones_own_tells_calls_apart(cache: CacheClient) -> None:
    calls = Calls()

    @cached(cache, namespace="ns", ttl=60, key="{request[id]}", tags=lambda request: ["all"])
    async def handle(request: dict[str, Any]) -> int:
        calls(request["id"])
        return 1

    @cached(cache, namespace="ns", ttl=60)
    async def of(thing: object) -> int:
        return 1

    with context.with_identity(ADA):
        await handle({"id": 1, "trace": object()})
        await handle({"id": 1, "trace": object()})
        await handle({"id": 2})
        with pytest.raises(TypeError, match="key"):
            await of(object())
    assert calls == [1, 2]


async def test_an_error_passes_and_is_not_kept(cache: CacheClient) -> None:
    calls = Calls()

    @cached(cache, namespace="ns", ttl=60)
    async def fail() -> int:
        calls(1)
        raise NotFound("nothing", reason="NOTHING")

    with context.with_identity(ADA):
        for _ in range(2):
            with pytest.raises(NotFound):
                await fail()
    assert calls == [1, 1]


async def test_that_there_is_nothing_is_kept_for_five_seconds_only(cache: CacheClient) -> None:
    @cached(cache, namespace="ns", ttl=3600, absent=lambda value: value is None)
    async def find(name: str) -> str | None:
        return None if name == "nobody" else name

    with context.with_identity(ADA):
        assert await find("nobody") is None and await find("nobody") is None
        assert await find("ada") == "ada"
        nothing, something = await cache.get(find.key("nobody")), await cache.get(find.key("ada"))
    assert nothing is not None and something is not None
    assert (nothing.absent, nothing.ttl) == (True, 5.0)
    assert (something.absent, something.ttl) == (False, 3600.0)


async def test_a_function_of_threads_is_called_from_threads(cache: CacheClient) -> None:
    calls = Calls()

    @cached(cache, namespace="ns", ttl=60)
    def slow(number: int) -> int:
        calls(context.identity().user)
        return number * 2

    with context.with_identity(ADA):
        found = await asyncio.gather(*(asyncio.to_thread(slow, 21) for _ in range(5)))
        assert found == [42] * 5 and await slow.in_thread(21) == 42
        with pytest.raises(RuntimeError, match="in_thread"):
            slow(21)
        with context.with_identity(BOB):
            assert await asyncio.to_thread(slow, 21) == 42
        await slow.forget(21)
        assert await asyncio.to_thread(slow, 21) == 42
    assert calls == ["ada", "bob", "ada"]


async def test_a_function_of_threads_needs_an_open_client() -> None:
    @cached(CacheClient(identity=ADA), namespace="ns", ttl=60)
    def never() -> int:
        return 1

    with pytest.raises(RuntimeError, match="not open"):
        await asyncio.to_thread(never)
