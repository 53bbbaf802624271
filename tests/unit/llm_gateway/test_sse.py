"""Server-sent events, however the network cuts them."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.llm_gateway.sse import Decoder, NotEvents

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "m"}},
    {"type": "ping"},
    {"type": "content_block_delta", "delta": {"text": 'a\n\ndata: "é"'}},
]


def body(newline: bytes) -> bytes:
    return b"".join(
        b"event: %b%bdata: %b%b%b"
        % (e["type"].encode(), newline, orjson.dumps(e), newline, newline)
        for e in EVENTS
    )


@given(st.lists(st.integers(0, 400), max_size=40), st.sampled_from([b"\n", b"\r\n"]))
def test_events_are_the_same_wherever_the_body_is_cut(cuts: list[int], newline: bytes) -> None:
    whole = body(newline)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    decoder = Decoder()

    decoded = []
    for start, end in itertools.pairwise(places):
        decoded += decoder.feed(whole[start:end])

    assert decoded == EVENTS


def test_what_came_together_is_returned_together() -> None:
    assert Decoder().feed(body(b"\n")) == EVENTS


def test_comments_and_fields_that_mean_nothing_here_are_skipped() -> None:
    assert Decoder().feed(b': hi\n\nid: 1\nretry: 5\ndata: {"type":\ndata:"ping"}\n\n') == [
        {"type": "ping"}
    ]


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
def test_what_is_not_an_event_is_said(bad: bytes) -> None:
    with pytest.raises(NotEvents):
        Decoder().feed(bad)


def test_an_event_without_end_is_not_gathered_for_ever() -> None:
    decoder = Decoder()
    with pytest.raises(NotEvents):
        for _ in range(20):
            decoder.feed(b"data: " + b"x" * 1024 * 1024)
