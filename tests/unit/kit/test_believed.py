"""Answers that are believed for a while: asked for once, forgotten, kept through an outage."""

import asyncio

import pytest

from peregrine.kit.believed import Believed
from peregrine.kit.errors import PeregrineError, Unauthenticated, Unavailable
from tests.support.eventually import eventually


class Asked:
    """Gives its answers in turn; counts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.times = 0
        self.error: PeregrineError | None = None
        self.ends = float("inf")
        self.gate: asyncio.Event | None = None
        self.believed: Believed[int] = Believed(
            seconds=10.0, outage_seconds=100.0, size=3, clock=lambda: self.now
        )

    async def ask(self) -> tuple[int, float]:
        self.times += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.times, self.ends

    async def get(self, key: str = "k") -> int:
        return await self.believed.get(key, self.ask)


AWAY = Unavailable("away", reason="POSTGRES_UNAVAILABLE")
REFUSED = Unauthenticated("no", reason="CREDENTIALS_INVALID")


async def test_it_is_asked_for_once_and_again_when_it_is_no_longer_fresh() -> None:
    asked = Asked()
    assert [await asked.get() for _ in range(5)] == [1] * 5
    asked.now += 9.9
    assert await asked.get() == 1
    asked.now += 0.2
    assert await asked.get() == 2
    assert await asked.believed.renew("k", asked.ask) == 3


async def test_a_hundred_who_want_it_at_once_ask_once() -> None:
    asked = Asked()
    asked.gate = asyncio.Event()
    waiting = [asyncio.create_task(asked.get()) for _ in range(100)]
    await eventually(lambda: asked.times == 1)
    waiting[0].cancel()
    asked.gate.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [1] * 99
    assert asked.times == 1


async def test_it_ends_when_it_ends_however_fresh_it_is() -> None:
    asked = Asked()
    asked.ends = asked.now + 5
    assert await asked.get() == 1
    asked.now += 5
    asked.error = AWAY
    with pytest.raises(Unavailable):
        await asked.get()


async def test_while_nobody_can_be_asked_the_last_answer_serves_without_a_wait() -> None:
    asked = Asked()
    await asked.get()
    asked.now += 11
    asked.error = AWAY
    assert await asked.get() == 1
    assert asked.times == 2
    asked.gate = asyncio.Event()  # now it does not even say that it is away
    asked.now += 2
    assert [await asked.get() for _ in range(3)] == [1] * 3
    await eventually(lambda: asked.times == 3)
    asked.error = None
    asked.gate.set()
    await eventually(lambda: not asked.believed._asking)
    assert await asked.get() == 3
    asked.error, asked.gate = AWAY, None
    asked.now += 101
    with pytest.raises(Unavailable):
        await asked.get()


async def test_a_refusal_is_the_answer_and_what_was_believed_is_forgotten() -> None:
    asked = Asked()
    await asked.get()
    asked.now += 11
    asked.error = REFUSED
    with pytest.raises(Unauthenticated):
        await asked.get()
    asked.error = AWAY
    with pytest.raises(Unavailable):
        await asked.get()


async def test_a_refusal_is_not_remembered_and_memory_is_bounded() -> None:
    asked = Asked()
    asked.error = REFUSED
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await asked.get()
    asked.error = None
    for number in range(10):
        await asked.get(str(number))
    assert len(asked.believed._known) == 3
    await asked.believed.close()
