"""Arithmetic on a line of text, exact where it can be, and bounded in time and space.

A value is a fraction, so `0.1 + 0.2` is 0.3 and `1 / 3 * 3` is 1. Roots, logarithms and the like
are worked out in floating point and make the result an approximation, which is said. Nothing is
ever given to Python to evaluate: this is a parser of its own (precedence climbing), which knows
numbers, operators and the functions below and can do nothing else.

    sum      = product { ("+" | "-") product }
    product  = signed { ("*" | "/" | "//" | "%" | "mod" | "of") signed }
    signed   = ("+" | "-") signed | power
    power    = postfix [ ("^" | "**") signed ]          right to left; -2^2 is -4
    postfix  = atom { "!" | "%" }                        a "%" with no operand after it: percent
    atom     = number | constant | function "(" sum { "," sum } ")" | "(" sum ")"

Bounds: 1,000 characters, 300 symbols, 50 levels, numbers of 10,000 bits.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

MAX_CHARACTERS = 1_000
MAX_SYMBOLS = 300
MAX_DEPTH = 50
MAX_BITS = 10_000

_SIGNIFICANT = 15
_MAX_DECIMALS = 60
_SPELLINGS = str.maketrans(
    {
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "^": "**",
    }
)
_SYMBOL = re.compile(
    r"\s*(?:(?P<number>(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?)"
    r"|(?P<sign>\*\*|//|[-+*/%!(),]|[xX](?=\s*[0-9.(]))"
    r"|(?P<name>[A-Za-zπτ_][A-Za-z_0-9]*))"
)
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


def evaluate(text: str) -> Value:
    """The value of `text`.

    Raises:
      ArithmeticFault
    """
    if len(text) > MAX_CHARACTERS:
        raise ArithmeticFault(f"The expression is longer than {MAX_CHARACTERS} characters.")
    symbols = _symbols(text.translate(_SPELLINGS).rstrip(" \t\n=?"))
    if not symbols:
        raise ArithmeticFault("The expression is empty.")
    if len(symbols) > MAX_SYMBOLS:
        raise ArithmeticFault(f"The expression has more than {MAX_SYMBOLS} numbers and signs.")
    try:
        return _Parser(symbols).whole()
    except ZeroDivisionError:
        raise ArithmeticFault("It divides by zero.") from None
    except OverflowError:
        raise _too_large() from None


@dataclass(frozen=True, slots=True)
class _Symbol:
    kind: str
    text: str


def _symbols(text: str) -> list[_Symbol]:
    symbols = []
    place = 0
    while place < len(text):
        match = _SYMBOL.match(text, place)
        if match is None or match.lastgroup is None:
            raise ArithmeticFault(f"{text[place:].strip()[:20]!r} is not arithmetic.")
        symbols.append(_Symbol(match.lastgroup, match[match.lastgroup]))
        place = match.end()
    return symbols


class _Parser:
    def __init__(self, symbols: Sequence[_Symbol]) -> None:
        self._symbols = symbols
        self._place = 0
        self._depth = 0

    def whole(self) -> Value:
        value = self._sum()
        if self._place < len(self._symbols):
            self._unexpected()
        return value

    def _sum(self) -> Value:
        value = self._product()
        while sign := self._take("+", "-"):
            value = _arithmetic(sign, value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while sign := self._take("*", "//", "/", "%", "mod", "of", "x", "X"):
            value = _arithmetic(sign, value, self._signed())
        return value

    def _signed(self) -> Value:
        self._enter()
        if sign := self._take("+", "-"):
            value = self._signed()
            value = value if sign == "+" else Value(-value.number, value.exact)
        else:
            value = self._power()
        self._depth -= 1
        return value

    def _power(self) -> Value:
        value = self._postfix()
        return _power(value, self._signed()) if self._take("**") else value

    def _postfix(self) -> Value:
        value = self._atom()
        while True:
            if self._take("!"):
                value = Value(_factorial(value), value.exact)
            elif self._text() == "%" and not self._operand_follows():
                self._place += 1
                value = Value(_bounded(value.number / 100), value.exact)
            else:
                return value

    def _operand_follows(self) -> bool:
        """Whether an operand begins after the next symbol: then "%" is the remainder."""
        if self._place + 1 >= len(self._symbols):
            return False
        after = self._symbols[self._place + 1]
        if after.kind == "name":
            return after.text in _FUNCTIONS or after.text in _CONSTANTS
        return after.kind == "number" or after.text == "("

    def _atom(self) -> Value:
        if self._place >= len(self._symbols):
            raise ArithmeticFault("The expression ends where a number is expected.")
        symbol = self._symbols[self._place]
        self._place += 1
        if symbol.kind == "number":
            return Value(_literal(symbol.text))
        if symbol.kind == "name":
            return self._named(symbol.text)
        if symbol.text != "(":
            self._place -= 1
            self._unexpected()
        value = self._sum()
        self._close()
        return value

    def _named(self, name: str) -> Value:
        constant = _CONSTANTS.get(name.lower())
        if constant is not None:
            return constant
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            known = ", ".join(sorted(_FUNCTIONS))
            raise ArithmeticFault(f"{name[:20]!r} is unknown. There are: {known}, pi, e, tau.")
        if not self._take("("):
            raise ArithmeticFault(f"{name} needs its argument in brackets: {name}(…).")
        values = [self._sum()]
        while self._take(","):
            values.append(self._sum())
        self._close()
        least, most, work = function
        if not least <= len(values) <= most:
            raise ArithmeticFault(f"{name} does not take {len(values)} numbers.")
        value = work(*values)
        return Value(_bounded(value.number), value.exact)

    def _close(self) -> None:
        if self._text() == ",":
            raise ArithmeticFault("A comma stands where none belongs; write 1000, not 1,000.")
        if not self._take(")"):
            raise ArithmeticFault("A closing bracket is missing.")

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticFault(f"The expression is nested deeper than {MAX_DEPTH} levels.")

    def _text(self) -> str:
        return self._symbols[self._place].text if self._place < len(self._symbols) else ""

    def _take(self, *texts: str) -> str:
        text = self._text()
        if text not in texts:
            return ""
        self._place += 1
        return text

    def _unexpected(self) -> NoReturn:
        text = self._text()
        if text == ",":
            raise ArithmeticFault("A comma stands where none belongs; write 1000, not 1,000.")
        raise ArithmeticFault(f"{text[:20]!r} stands where it makes no sense.")


def _arithmetic(sign: str, left: Value, right: Value) -> Value:
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
    return Value(_bounded(number), left.exact and right.exact)


def _power(base: Value, exponent: Value) -> Value:
    exact = base.exact and exponent.exact
    a, b = base.number, exponent.number
    if a == 0 and b < 0:
        raise ZeroDivisionError
    if b.denominator == 1:
        # How large the result is, is known before it is worked out.
        if abs(a) != 1 and a != 0 and (_bits(a) - 1) * abs(b.numerator) > MAX_BITS:
            raise _too_large()
        return Value(_bounded(a**b.numerator), exact)
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
        raise _too_large()
    return Value(Fraction(result), exact=False)


def _factorial(value: Value) -> Fraction:
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


_MANY = MAX_SYMBOLS
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "abs": (1, 1, lambda value: Value(abs(value.number), value.exact)),
    "ceil": (1, 1, lambda value: Value(Fraction(math.ceil(value.number)))),
    "cos": (1, 1, _of_float(math.cos)),
    "exp": (1, 1, _of_float(math.exp)),
    "factorial": (1, 1, lambda value: Value(_factorial(value), value.exact)),
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
_CONSTANTS: dict[str, Value] = {
    "pi": Value(Fraction(math.pi), exact=False),
    "π": Value(Fraction(math.pi), exact=False),
    "e": Value(Fraction(math.e), exact=False),
    "tau": Value(Fraction(math.tau), exact=False),
    "τ": Value(Fraction(math.tau), exact=False),
}


def _literal(text: str) -> Fraction:
    digits, _, exponent = text.replace("_", "").lower().partition("e")
    if abs(int(exponent or "0")) > MAX_BITS // 4:
        raise _too_large()
    return _bounded(Fraction(digits) * Fraction(10) ** int(exponent or "0"))


def _bounded(number: Fraction) -> Fraction:
    if _bits(number) > MAX_BITS:
        raise _too_large()
    return number


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())


def _too_large() -> ArithmeticFault:
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
