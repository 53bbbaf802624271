"""Events on the wire."""

from peregrine.client import jsonl
from peregrine.edge.streaming import frames, pieces
from tests.support import fake_orchestrator as script


def test_an_event_is_its_position_its_kind_and_its_json_on_one_line() -> None:
    event = script.text(1, "two\nlines\r\u2028and “more”")
    event.sequence, event.epoch = 7, 2
    head, name, data, *rest = frames([event]).decode().split("\n")
    assert (head, name, rest) == ("id: 7", "event: text_delta", ["", ""])
    assert data == f"data: {jsonl.line(event)}"


def test_pieces_together_are_the_same_bytes_and_none_is_much_larger_than_asked() -> None:
    events = [script.text(1, "x" * length) for length in (0, 10, 500, 2000, 1, 1, 999)]
    found = list(pieces(events, 1000))
    assert b"".join(piece for _, piece in found) == frames(events)
    assert sum(count for count, _ in found) == len(events)
    assert len(found) == 2
    assert all(len(piece) < 1000 + 2300 for _, piece in found)
    assert list(pieces([])) == []
