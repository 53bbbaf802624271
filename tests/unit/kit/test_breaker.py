"""The breaker: opens after failures in a row, and closes by itself when there is an answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit import context
from peregrine.kit.background import Failures
from peregrine.kit.breaker import Breaker
from tests.support.eventually import eventually

FAILURES = "peregrine_background_failures_total"


class Peer:
    """What is behind the breaker."""

    def __init__(self) -> None:
        self.answering = True
        self.broken = False
        self.probes = 0
        self.changes: list[bool] = []
        self.registry = CollectorRegistry()
        self.counted = Failures(self.registry).of("probes")

    async def probe(self) -> bool:
        self.probes += 1
        if self.broken:
            raise RuntimeError("the probe is broken")
        return self.answering


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def breaker(peer: Peer) -> AsyncIterator[Breaker]:
    breaker = Breaker(
        name="peer",
        probe=peer.probe,
        interval=0.005,
        on_change=lambda open_: peer.changes.append(open_),
        broken=peer.counted,
    )
    yield breaker
    await breaker.close()


async def test_it_opens_after_three_failures_in_a_row_and_not_before(
    peer: Peer, breaker: Breaker
) -> None:
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert not breaker.open and peer.probes == 0
    for _ in range(3):
        assert not breaker.open
        breaker.failed()
    assert breaker.open and peer.changes == [True]


async def test_it_closes_on_the_first_answer_and_may_open_again(
    peer: Peer, breaker: Breaker
) -> None:
    for _ in range(2):
        peer.answering = False
        for _ in range(5):
            breaker.failed()
        seen = peer.probes
        await eventually(lambda seen=seen: peer.probes > seen + 3)
        assert breaker.open
        peer.answering = True
        await eventually(lambda: not breaker.open)
    assert peer.changes == [True, False, True, False]


async def test_nothing_is_asked_while_it_is_closed(peer: Peer, breaker: Breaker) -> None:
    for _ in range(3):
        breaker.failed()
    await eventually(lambda: not breaker.open)
    assert peer.probes == 1
    assert len(asyncio.all_tasks()) == 1


async def test_a_probe_that_breaks_is_one_without_an_answer(peer: Peer, breaker: Breaker) -> None:
    peer.broken = True
    for _ in range(3):
        breaker.failed()
    await eventually(lambda: peer.probes > 2)
    assert breaker.open
    counted = {"task": "probes"}
    assert (peer.registry.get_sample_value(FAILURES, counted) or 0) > 1
    peer.broken = False
    await eventually(lambda: not breaker.open)


async def test_closing_it_ends_its_task(peer: Peer, breaker: Breaker) -> None:
    peer.answering = False
    for _ in range(3):
        breaker.failed()
    await breaker.close()
    assert len(asyncio.all_tasks()) == 1


async def test_it_probes_without_the_deadline_of_the_call_that_opened_it(peer: Peer) -> None:
    async def in_time() -> bool:
        peer.changes.append(context.deadline_remaining() is not None)
        return True

    breaker = Breaker(name="peer", probe=in_time, failures=1, interval=0.005)
    with context.bind(timeout=0.001):
        breaker.failed()
    await eventually(lambda: not breaker.open)
    assert peer.changes == [False]
    await breaker.close()
