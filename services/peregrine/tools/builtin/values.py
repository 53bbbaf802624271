"""The numbers of the calculator: exact fractions where possible, bounded, and their functions.

A number is a fraction of at most 10,000 bits above and below; how large a power would be is known
before it is worked out. Roots, logarithms and angles go through floating point and mark their
result as an approximation, unless it can be shown to be exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_BITS = 10_000

_SIGNIFICANT = 15
_MAX_DECIMALS = 60
_FACTORIAL_LIMIT = 1_000


class ArithmeticFault(Exception):
    """The text is not arithmetic, or has no value; the message says why, for people and models."""


@dataclass(frozen=True, slots=True)
class Value:
    number: Fraction
    exact: bool = True

    def written(self) -> tuple[str, bool]:
        """The value in digits, and whether they are all of it."""
        text = _decimal(self.number) if self.exact else None
        return (_rounded(self.number), False) if text is None else (text, True)

    def __str__(self) -> str:
        return self.written()[0]


def operate(sign: str, left: Value, right: Value) -> Value:
    a, b = left.number, right.number
    match sign:
        case "+":
            number = a + b
        case "-":
            number = a - b
        case "/":
            number = a / b
        case "//":
            number = Fraction(a // b)
        case "%" | "mod":
            number = a % b
        case _:  # "*", its spelling "x", and "of", as in 15% of 240
            number = a * b
    return Value(bounded(number), left.exact and right.exact)


def power(base: Value, exponent: Value) -> Value:
    exact = base.exact and exponent.exact
    a, b = base.number, exponent.number
    if a == 0 and b < 0:
        raise ZeroDivisionError
    if b.denominator == 1:
        # How large the result is, is known before it is worked out.
        if abs(a) != 1 and a != 0 and (_bits(a) - 1) * abs(b.numerator) > MAX_BITS:
            raise too_large()
        return Value(bounded(a**b.numerator), exact)
    if a < 0:
        raise ArithmeticFault("A fractional power of a negative number is not a real number.")
    if b == Fraction(1, 2):
        return _sqrt(Value(a, exact))
    return _approximate(lambda: math.pow(float(a), float(b)))


def _sqrt(value: Value) -> Value:
    if value.number < 0:
        raise ArithmeticFault("The square root of a negative number is not a real number.")
    top, bottom = math.isqrt(value.number.numerator), math.isqrt(value.number.denominator)
    root = Fraction(top, bottom)
    if root * root == value.number:
        return Value(root, value.exact)
    return _approximate(lambda: math.sqrt(float(value.number)))


def _approximate(work: Callable[[], float]) -> Value:
    try:
        result = work()
    except ValueError:
        raise ArithmeticFault("The function has no value there.") from None
    if not math.isfinite(result):
        raise too_large()
    return Value(Fraction(result), exact=False)


def factorial(value: Value) -> Fraction:
    number = value.number
    if number.denominator != 1 or not 0 <= number <= _FACTORIAL_LIMIT:
        raise ArithmeticFault(f"A factorial needs a whole number from 0 to {_FACTORIAL_LIMIT}.")
    return Fraction(math.factorial(number.numerator))


def _round(value: Value, digits: Value | None = None) -> Value:
    places = _whole(digits) if digits is not None else 0
    if abs(places) > _MAX_DECIMALS:
        raise ArithmeticFault(f"It rounds to at most {_MAX_DECIMALS} places.")
    # Half away from zero, as people do it.
    scale = Fraction(10) ** places
    scaled = abs(value.number) * scale
    number = Fraction(math.floor(scaled + Fraction(1, 2))) / scale
    return Value(number if value.number >= 0 else -number)


def _log(value: Value, base: Value | None = None) -> Value:
    number = value.number
    if number <= 0 or (base is not None and (base.number <= 0 or base.number == 1)):
        raise ArithmeticFault("A logarithm needs a positive number, and a base that is not 1.")
    if base is None:
        return _approximate(lambda: _ln(number))
    result = _approximate(lambda: _ln(number) / _ln(base.number))
    # log(1000, 10) is 3, not 2.9999999999999996.
    nearest = Fraction(round(result.number))
    if _bits(base.number) * abs(nearest) <= 2 * MAX_BITS and base.number**nearest == number:
        return Value(nearest, value.exact and base.exact)
    return result


def _ln(number: Fraction) -> float:
    # The logarithm of an integer of any size is fine, its conversion to float is not.
    return math.log(number.numerator) - math.log(number.denominator)


def _whole(value: Value) -> int:
    if value.number.denominator != 1:
        raise ArithmeticFault(f"{value} is not a whole number.")
    return value.number.numerator


def _all_exact(values: Sequence[Value]) -> bool:
    return all(value.exact for value in values)


def _of_float(work: Callable[[float], float]) -> Callable[[Value], Value]:
    return lambda value: _approximate(lambda: work(float(value.number)))


def _of_integers(work: Callable[..., int]) -> Callable[..., Value]:
    return lambda *values: Value(Fraction(work(*(_whole(each) for each in values))))


_MANY = 1_000
FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "abs": (1, 1, lambda value: Value(abs(value.number), value.exact)),
    "ceil": (1, 1, lambda value: Value(Fraction(math.ceil(value.number)))),
    "cos": (1, 1, _of_float(math.cos)),
    "exp": (1, 1, _of_float(math.exp)),
    "factorial": (1, 1, lambda value: Value(factorial(value), value.exact)),
    "floor": (1, 1, lambda value: Value(Fraction(math.floor(value.number)))),
    "gcd": (1, _MANY, _of_integers(math.gcd)),
    "lcm": (1, _MANY, _of_integers(math.lcm)),
    "ln": (1, 1, _log),
    "log": (1, 2, _log),
    "log10": (1, 1, lambda value: _log(value, Value(Fraction(10)))),
    "log2": (1, 1, lambda value: _log(value, Value(Fraction(2)))),
    "max": (1, _MANY, lambda *values: max(values, key=lambda value: value.number)),
    "mean": (
        1,
        _MANY,
        lambda *values: Value(
            sum((value.number for value in values), Fraction(0)) / len(values), _all_exact(values)
        ),
    ),
    "min": (1, _MANY, lambda *values: min(values, key=lambda value: value.number)),
    "percent": (
        2,
        2,
        lambda part, whole: Value(part.number * whole.number / 100, _all_exact((part, whole))),
    ),
    "round": (1, 2, _round),
    "sin": (1, 1, _of_float(math.sin)),
    "sqrt": (1, 1, _sqrt),
    "sum": (
        1,
        _MANY,
        lambda *values: Value(
            sum((value.number for value in values), Fraction(0)), _all_exact(values)
        ),
    ),
    "tan": (1, 1, _of_float(math.tan)),
}
CONSTANTS: dict[str, Value] = {
    "pi": Value(Fraction(math.pi), exact=False),
    "π": Value(Fraction(math.pi), exact=False),
    "e": Value(Fraction(math.e), exact=False),
    "tau": Value(Fraction(math.tau), exact=False),
    "τ": Value(Fraction(math.tau), exact=False),
}


def literal(text: str) -> Fraction:
    digits, _, exponent = text.replace("_", "").lower().partition("e")
    if abs(int(exponent or "0")) > MAX_BITS // 4:
        raise too_large()
    return bounded(Fraction(digits) * Fraction(10) ** int(exponent or "0"))


def bounded(number: Fraction) -> Fraction:
    if _bits(number) > MAX_BITS:
        raise too_large()
    return number


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def too_large() -> ArithmeticFault:
    return ArithmeticFault("The number is too large or too fine to work with.")


def _decimal(number: Fraction) -> str | None:
    """`number` in full, or None when its decimals do not end within reason."""
    rest, twos, fives = number.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > _MAX_DECIMALS:
        return None
    if places == 0:
        return str(number.numerator)
    digits = str(abs(number.numerator) * 10**places // number.denominator).rjust(places + 1, "0")
    sign = "-" if number < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def _rounded(number: Fraction) -> str:
    """`number` to 15 significant digits."""
    if number == 0:
        return "0"
    try:
        text = f"{float(number):.{_SIGNIFICANT}g}"
    except OverflowError:
        text = ""
    if text and float(text) != 0:
        return text
    # Beyond what a float can hold: the power of ten comes from the logarithm.
    size = abs(number)
    exponent = math.floor(_ln(size) / math.log(10))
    digits = f"{float(size / Fraction(10) ** exponent):.{_SIGNIFICANT}g}"
    return f"{'-' if number < 0 else ''}{digits}e{exponent:+d}"
