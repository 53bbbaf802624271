"""What looks like a secret is seen, and what does not is left alone."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.cache.sensitive import holds_secret

CORPUS = [
    line.split(" ", 1)
    for line in (Path(__file__).parent / "sensitive_corpus.txt").read_text("utf-8").splitlines()
    if line[:1] in "+-"
]


@pytest.mark.parametrize(("sign", "text"), CORPUS)
def test_the_corpus(sign: str, text: str) -> None:
    assert holds_secret(text.encode()) == (sign == "+")


@pytest.mark.parametrize("text", [text for sign, text in CORPUS if sign == "+"])
def test_a_secret_is_seen_wherever_it_stands(text: str) -> None:
    assert holds_secret(b'{"a": "' + text.encode() + b'"}')
    assert holds_secret(b"x " * 5_000 + text.encode() + b"\n" + b" y" * 5_000)


@given(st.binary(max_size=2_000))
def test_no_bytes_upset_it(value: bytes) -> None:
    holds_secret(value)


def luhn_digit(digits: str) -> str:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * (2 if place % 2 == 0 else 1)
        total += number - 9 if number > 9 else number
    return str(-total % 10)


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True))
def test_a_card_number_is_one_by_its_last_digit_alone(digits: str) -> None:
    right = luhn_digit(digits)
    for last in "0123456789":
        assert holds_secret(f"card {digits}{last}.".encode()) == (last == right)


@pytest.mark.parametrize("value", [b"1" * 2**20, b"4" * 2**20, b"://" * 350_000, b"sk-" * 350_000])
def test_the_longest_value_takes_no_longer_than_it_may(value: bytes) -> None:
    begun = time.process_time()
    holds_secret(value[: 2**20])
    assert time.process_time() - begun < 2.0  # quadratic would be minutes
