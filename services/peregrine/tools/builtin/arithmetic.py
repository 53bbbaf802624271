"""Arithmetic on a line of text, exact where it can be, and bounded in time and space.

A value is a fraction, so `0.1 + 0.2` is 0.3 and `1 / 3 * 3` is 1. Roots, logarithms and the like
are worked out in floating point and make the result an approximation, which is said. Nothing is
ever given to Python to evaluate: this is a parser of its own (precedence climbing), which knows
numbers, operators and the functions in `values`, and can do nothing else.

    sum      = product { ("+" | "-") product }
    product  = signed { ("*" | "/" | "//" | "%" | "mod" | "of") signed }
    signed   = ("+" | "-") signed | power
    power    = postfix [ ("^" | "**") signed ]          right to left; -2^2 is -4
    postfix  = atom { "!" | "%" }                        a "%" with no operand after it: percent
    atom     = number | constant | function "(" sum { "," sum } ")" | "(" sum ")"

Bounds: 1,000 characters, 300 symbols, 50 levels, numbers of 10,000 bits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from peregrine.tools.builtin import values
from peregrine.tools.builtin.values import ArithmeticFault, Value

__all__ = ["ArithmeticFault", "Value", "evaluate"]

MAX_CHARACTERS = 1_000
MAX_SYMBOLS = 300
MAX_DEPTH = 50

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
        raise values.too_large() from None


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
            value = values.operate(sign, value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while sign := self._take("*", "//", "/", "%", "mod", "of", "x", "X"):
            value = values.operate(sign, value, self._signed())
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
        return values.power(value, self._signed()) if self._take("**") else value

    def _postfix(self) -> Value:
        value = self._atom()
        while True:
            if self._take("!"):
                value = Value(values.factorial(value), value.exact)
            elif self._text() == "%" and not self._operand_follows():
                self._place += 1
                value = Value(values.bounded(value.number / 100), value.exact)
            else:
                return value

    def _operand_follows(self) -> bool:
        """Whether an operand begins after the next symbol: then "%" is the remainder."""
        if self._place + 1 >= len(self._symbols):
            return False
        after = self._symbols[self._place + 1]
        if after.kind == "name":
            return after.text in values.FUNCTIONS or after.text in values.CONSTANTS
        return after.kind == "number" or after.text == "("

    def _atom(self) -> Value:
        if self._place >= len(self._symbols):
            raise ArithmeticFault("The expression ends where a number is expected.")
        symbol = self._symbols[self._place]
        self._place += 1
        if symbol.kind == "number":
            return Value(values.literal(symbol.text))
        if symbol.kind == "name":
            return self._named(symbol.text)
        if symbol.text != "(":
            self._place -= 1
            self._unexpected()
        value = self._sum()
        self._close()
        return value

    def _named(self, name: str) -> Value:
        constant = values.CONSTANTS.get(name.lower())
        if constant is not None:
            return constant
        function = values.FUNCTIONS.get(name.lower())
        if function is None:
            known = ", ".join(sorted(values.FUNCTIONS))
            raise ArithmeticFault(f"{name[:20]!r} is unknown. There are: {known}, pi, e, tau.")
        if not self._take("("):
            raise ArithmeticFault(f"{name} needs its argument in brackets: {name}(…).")
        operands = [self._sum()]
        while self._take(","):
            operands.append(self._sum())
        self._close()
        least, most, work = function
        if not least <= len(operands) <= most:
            raise ArithmeticFault(f"{name} does not take {len(operands)} numbers.")
        value = work(*operands)
        return Value(values.bounded(value.number), value.exact)

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
