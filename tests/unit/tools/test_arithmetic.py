"""Arithmetic: right, exact, bounded, and clear about nonsense."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.tools.builtin.arithmetic import ArithmeticFault, evaluate


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("25 * 17", "425"),
        ("25x17", "425"),
        ("25 x 17 = ?", "425"),
        ("25 \N{MULTIPLICATION SIGN} 17", "425"),
        ("9007199254740993 + 2", "9007199254740995"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3 * 3", "1"),
        ("1 / 8", "0.125"),
        ("-1/8", "-0.125"),
        ("10 - 4 - 3", "3"),
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("-2^2", "-4"),
        ("2^3^2", "512"),
        ("2 ** -3", "0.125"),
        ("7 // 2", "3"),
        ("-7 // 2", "-4"),
        ("10 % 3", "1"),
        ("10 mod 3", "1"),
        ("10%", "0.1"),
        ("15% of 240", "36"),
        ("200 * 19% + 1", "39"),
        ("percent(15, 240)", "36"),
        ("5! / 3!", "20"),
        ("sqrt(144) + sqrt(0.25)", "12.5"),
        ("round(2.5) + round(-2.5)", "0"),
        ("round(2/3, 4)", "0.6667"),
        ("log(1000, 10)", "3"),
        ("log2(2^100)", "100"),
        ("max(3, 1/2, -4) - min(3, 1/2, -4)", "7"),
        ("mean(1, 2, 6)", "3"),
        ("gcd(12, 18) * lcm(4, 6)", "72"),
        ("1_000 + .5", "1000.5"),
        ("1e3 + 1E-3", "1000.001"),
        ("2^0.5^2", "1.18920711500272"),
        ("1/3", "0.333333333333333"),
        ("cos(pi)", "-1"),
        ("1e-300 / 3e300", "3.33333333333333e-601"),
    ],
)
def test_it_works_out(expression: str, written: str) -> None:
    assert str(evaluate(expression)) == written


@pytest.mark.parametrize(
    ("expression", "exact"),
    [("0.1 + 0.2", True), ("1/3", False), ("sqrt(2)", False), ("sqrt(4)", True), ("pi", False)],
)
def test_it_says_whether_the_digits_are_all_of_it(expression: str, exact: bool) -> None:
    assert evaluate(expression).written()[1] is exact


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "empty"),
        ("?", "empty"),
        ("two plus two", "'two' is unknown"),
        ("__import__('os').system('x')", "not arithmetic"),
        ("(lambda: 1)()", "not arithmetic"),
        ("().__class__", "not arithmetic"),
        ("1 +", "ends where a number is expected"),
        ("(1 + 2", "closing bracket"),
        ("1 + 2)", "makes no sense"),
        ("5 5", "makes no sense"),
        ("1,000 + 1", "write 1000"),
        ("(1,000) + 1", "write 1000"),
        ("1 / 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("0 ^ -1", "divides by zero"),
        ("sqrt(-1)", "not a real number"),
        ("(-8) ^ (1/3)", "not a real number"),
        ("ln(0)", "positive number"),
        ("log(8, 1)", "not 1"),
        ("(-1)!", "whole number"),
        ("2.5!", "whole number"),
        ("5000!", "whole number"),
        ("sqrt", "in brackets"),
        ("sqrt(1, 2)", "does not take 2"),
        ("gcd(1.5, 2)", "not a whole number"),
        ("9 ** 9 ** 9", "too large"),
        ("2 ^ -(10 ^ 30)", "too large"),
        ("1e99999", "too large"),
        ("10^3000 * 10^3000", "too large"),
        ("exp(1000)", "too large"),
        ("(10^400) ^ 0.5 + sin(10^400)", "too large"),
        ("(" * 60 + "1" + ")" * 60, "deeper than"),
        ("-" * 200 + "1", "deeper than"),
        ("+".join(["1"] * 160), "more than"),
        ("1" * 1_001, "longer than"),
    ],
)
def test_it_refuses_with_a_reason(expression: str, words: str) -> None:
    with pytest.raises(ArithmeticFault, match=words):
        evaluate(expression)


_OPERATORS = st.sampled_from(["+", "-", "*", "/"])


@given(
    st.recursive(
        st.integers(0, 10**6).map(str) | st.decimals(0, 1000, places=3).map(lambda d: f"{d:f}"),
        lambda inner: st.builds(lambda a, o, b: f"({a} {o} {b})", inner, _OPERATORS, inner),
        max_leaves=12,
    )
)
def test_it_agrees_with_exact_fractions(expression: str) -> None:
    literal = __import__("re").sub(r"[0-9.]+", lambda match: f"F('{match[0]}')", expression)
    try:
        expected = eval(literal, {"F": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ArithmeticFault):
            evaluate(expression)
    else:
        assert evaluate(expression).number == expected


@given(st.text(alphabet="0123456789.+-*/%^!(),exsqrtlogpi \N{EN DASH}", max_size=60))
def test_any_text_ends_soon_in_a_value_or_a_reason(expression: str) -> None:
    started = time.monotonic()
    try:
        value = evaluate(expression)
    except ArithmeticFault as fault:
        assert str(fault)
    else:
        assert str(value)
    # The bound is far above what it takes, and far below what an unbounded power would.
    assert time.monotonic() - started < 5
