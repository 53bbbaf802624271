"""What others say, made fit for a terminal: without control characters, short, in plain words."""

import json
from typing import Any

from peregrine.api.orchestrator.v1 import orchestrator_pb2

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def printable(text: str) -> str:
    """The text without control characters other than tab and newline."""
    return text.translate(_CONTROLS)


def arguments(text: str) -> str:
    """A tool's arguments in short: the value alone when there is one, else name=value pairs."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    words = {
        name: entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
        for name, entry in value.items()
    }
    if len(words) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{name}={word}" for name, word in words.items())


def state_name(state: int) -> str:
    """A run's state as a person reads it: "succeeded", "awaiting approval"."""
    return enum_name(orchestrator_pb2.RunState, state, "RUN_STATE_").lower().replace("_", " ")


def enum_name(kind: Any, number: int, prefix: str = "") -> str:
    """The name of an enum's value without its prefix; the number when it is of a newer server."""
    known = kind.DESCRIPTOR.values_by_number.get(number)
    return known.name.removeprefix(prefix) if known else str(number)
