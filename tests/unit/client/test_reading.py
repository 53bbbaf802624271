"""A cursor on a log, and how patient a reader is."""

import pytest

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import Patience
from peregrine.client._reading import Cursor
from peregrine.kit.errors import Internal


def at(sequence: int, epoch: int = 1) -> pb.RunEvent:
    return pb.RunEvent(sequence=sequence, epoch=epoch)


def test_events_are_passed_on_once_and_in_order() -> None:
    cursor = Cursor()
    passed = [cursor.advance(at(n)) for n in (1, 2, 2, 1, 3)]
    assert passed == [True, True, False, False, True]


def test_a_gap_is_an_error_and_moves_nothing() -> None:
    cursor = Cursor(4, 1)
    with pytest.raises(Internal, match="goes on at 6 after 4"):
        cursor.advance(at(6))
    assert cursor.advance(at(5))


def test_a_later_epoch_may_stand_at_a_position_that_was_read() -> None:
    cursor = Cursor(9, 1)
    assert cursor.advance(at(5, epoch=2))
    assert cursor.advance(at(6, epoch=2))
    assert not cursor.advance(at(6, epoch=1))


def test_without_an_epoch_what_was_read_stays_read() -> None:
    cursor = Cursor(9)
    assert not cursor.advance(at(9, epoch=7))
    assert cursor.advance(at(10, epoch=7))


def test_delays_double_up_to_the_longest_and_are_jittered() -> None:
    patience = Patience(first_delay=0.1, max_delay=1.0)
    for failures in range(1, 12):
        ceiling = min(0.1 * 2 ** (failures - 1), 1.0)
        delays = {patience.delay(failures, None) for _ in range(20)}
        assert all(ceiling / 2 <= delay <= ceiling for delay in delays)
        assert len(delays) > 1


def test_the_delay_that_the_server_asks_for_is_obeyed_within_reason() -> None:
    patience = Patience()
    assert patience.delay(1, 3.0) == 3.0
    assert patience.delay(1, 1e6) == 10.0


def test_the_shortest_delays_together_outlast_a_take_over() -> None:
    patience = Patience()
    shortest = sum(
        min(patience.first_delay * 2**failure, patience.max_delay) / 2
        for failure in range(patience.attempts - 1)
    )
    assert shortest > 6
