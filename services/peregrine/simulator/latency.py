"""How long the simulated model takes: a pure model of first token, decode and prompt reading.

    first token  = first_token * (1 ± jitter) + uncached prompt tokens * seconds_per_prompt_token
    token n      = first token + n / tokens_per_second

Everything is an offset from the moment the request was read; who plays it adds a clock. Zero
`tokens_per_second` means that decoding takes no time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from peregrine.simulator.wire import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """The latency model of a request."""

    first_token: float = 0.3
    """Seconds until the first token of an empty prompt."""
    tokens_per_second: float = 80.0
    """Decoding speed; 0 is unlimited."""
    seconds_per_prompt_token: float = 0.0
    """Seconds added to the first token per prompt token that the prefix cache did not have."""
    jitter: float = 0.0
    """Share of `first_token` (0 to 1) by which it varies, uniformly, drawn from the seed."""

    def first_token_seconds(self, uncached_tokens: int, draw: float) -> float:
        """`draw` (0 to 1, uniform) decides the jitter; 0.5 means none."""
        varied = self.first_token * (1 + self.jitter * (2 * draw - 1))
        return varied + uncached_tokens * self.seconds_per_prompt_token

    @property
    def token_seconds(self) -> float:
        return 1 / self.tokens_per_second if self.tokens_per_second else 0.0

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """This model with some fields replaced; an unknown or impossible value is a 400."""
        names = {field.name for field in fields(self)}
        checked: dict[str, float] = {}
        for name, value in changes.items():
            if name not in names:
                raise invalid(f"latency: unknown field {name!r}, expected one of {sorted(names)}")
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise invalid(f"latency.{name}: expected a number, got {value!r}") from None
            if not math.isfinite(number) or number < 0 or (name == "jitter" and number > 1):
                raise invalid(f"latency.{name}: {value!r} is out of range")
            checked[name] = number
        return replace(self, **checked)


def parse(text: str) -> dict[str, str]:
    """`first_token=0.04,tokens_per_second=50`, as in the header `x-simulator-latency`."""
    changes: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise invalid(f"latency: expected name=value, got {part!r}")
        changes[name.strip()] = value.strip()
    return changes
