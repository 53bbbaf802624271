"""The cursor: which source may continue a reader, and where a void position goes back to."""

import pytest

from peregrine.kit.eventlog.entry import Entry
from peregrine.kit.eventlog.reader import Cursor
from peregrine.kit.eventlog.window import Window


def window(first: int, count: int, *, epoch: int) -> Window:
    made = Window(epoch=epoch, next_sequence=first)
    made.extend(Entry(first + offset, epoch, b"") for offset in range(count))
    return made


@pytest.mark.parametrize(
    ("position", "epoch", "starts", "expected"),
    [
        (5, 1, [1], 5),
        (5, 1, [1, 6], 5),  # the next owner began right after it
        (5, 1, [1, 5], 4),  # the entry at 5 was void
        (5, 1, [1, 2, 9], 1),  # void since an owner in between
        (5, 1, [1, None, 3], 2),  # an owner that never wrote
        (5, 2, [1, 3, 6], 5),
        (5, 2, [1, 3, 4], 3),
        (5, None, [1, 3], 5),  # without an epoch nothing is known to be void
    ],
)
def test_a_position_is_valid_up_to_where_a_newer_owner_began(
    position: int, epoch: int | None, starts: list[int | None], expected: int
) -> None:
    cursor = Cursor(position, epoch)
    assert cursor.confirm(starts) == (expected != position)
    assert cursor.position == expected
    assert cursor.epoch == len(starts)


def test_a_window_of_another_epoch_proves_nothing() -> None:
    assert Cursor(5, 1).served_by(window(1, 9, epoch=2), trusted=True) is None
    assert Cursor(5, 2).served_by(window(1, 9, epoch=1), trusted=True) is None
    assert Cursor(5, None).served_by(window(1, 9, epoch=1), trusted=False) is None


def test_a_window_of_the_same_epoch_continues_a_cursor() -> None:
    served = Cursor(5, 2).served_by(window(3, 6, epoch=2), trusted=False)
    assert served is not None and [entry.sequence for entry in served] == [6, 7, 8]
    assert Cursor(8, 2).served_by(window(3, 6, epoch=2), trusted=False) == []
    assert Cursor(1, 2).served_by(window(3, 6, epoch=2), trusted=False) is None


def test_the_beginning_is_the_beginning_under_every_epoch() -> None:
    served = Cursor(0, None).served_by(window(1, 2, epoch=7), trusted=False)
    assert served is not None and len(served) == 2


def test_a_reader_sent_back_to_the_beginning_is_not_served_what_was_void() -> None:
    assert Cursor(0, 2).served_by(window(1, 2, epoch=1), trusted=True) is None


def test_the_owner_may_take_a_bare_position_as_its_own_if_it_is_there() -> None:
    served = Cursor(5, None).served_by(window(1, 9, epoch=2), trusted=True)
    assert served is not None and served[0].sequence == 6
    assert Cursor(10, None).served_by(window(1, 9, epoch=2), trusted=True) is None
