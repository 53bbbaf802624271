"""Reads the plain data of a manifest into a protobuf message, strictly.

The protos are the schema: a key is the field's JSON name (`maxSteps` for `max_steps`), its type
decides how the value is read, and what the proto's comments bound is bounded in one table here. So
a field that is added to a proto can be written in YAML the same day, and a typing error is never
silently ignored. Every problem is collected, not only the first.

Beyond protobuf's own JSON form: durations are written as in Kubernetes ("10s", "1h30m"), enum
values without their prefix, and open JSON as plain YAML.
"""

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from peregrine.client._bounds import (
    BOUNDS,
    DURATION,
    LONGEST_DURATION,
    REQUIRED,
    UNWRITABLE,
    Bounds,
)

_DURATION = re.compile(DURATION)
_DURATION_PART = re.compile(r"([0-9.]+)(ms|s|m|h|d)")
_NANOSECONDS = {
    "ms": Decimal(10**6),
    "s": Decimal(10**9),
    "m": Decimal(60 * 10**9),
    "h": Decimal(3600 * 10**9),
    "d": Decimal(86_400 * 10**9),
}
_MAX_NANOSECONDS = 315_576_000_000 * 10**9  # of google.protobuf.Duration
_BLANKS = " \t\r\n"

# Values are written in capitals (EXACT, READ) unless the proto's enum is listed here.
_SPELLING: dict[str, Callable[[str], str]] = {
    "CostClass": str.lower,
    "ChangeClass": str.lower,
    "Scope": str.lower,
    "PolicyMode": str.capitalize,
}

# No integer of the Kubernetes API is larger than 63 bits.
INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**63 - 1),
}


class Reading:
    """One manifest being read. `problems` collects (field, what is wrong with it)."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def problem(self, path: str, message: str) -> None:
        self.problems.append((path, message))

    def mapping(self, value: object, path: str, known: Collection[str]) -> dict[str, Any]:
        """The entries of `value` whose keys are known; the others are problems."""
        if not isinstance(value, Mapping):
            self.problem(path, f"must be a mapping, not {kind_of(value)}")
            return {}
        entries = {}
        for key, entry in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in known:
                self.problem(where, _unknown(str(key), known))
            elif entry is None:
                self.problem(where, "has no value; give one or leave the field out")
            else:
                entries[str(key)] = entry
        return entries

    def fill(self, into: Message, value: object, path: str) -> None:
        """Sets the fields of `into` from a mapping."""
        message = into.DESCRIPTOR
        unwritable = UNWRITABLE.get(message.name, ())
        fields: dict[str, Any] = {
            field.json_name: field for field in message.fields if field.name not in unwritable
        }
        for key, entry in self.mapping(value, path, fields).items():
            self._field(into, fields[key], entry, f"{path}.{key}")
        self.require(value, path, *REQUIRED.get(message.name, ()))

    def require(self, value: object, path: str, *keys: str) -> None:
        if isinstance(value, Mapping):
            for key in keys:
                if key not in value:
                    self.problem(f"{path}.{key}", "is missing")

    def text(self, value: object, path: str, bounds: Bounds | None = None) -> str | None:
        if not isinstance(value, str):
            hint = " (put it in quotes)" if isinstance(value, bool | int | float) else ""
            self.problem(path, f"must be text, not {kind_of(value)}{hint}")
            return None
        if bounds is not None and (wrong := _wrong_text(value, bounds)):
            self.problem(path, wrong)
            return None
        return value

    def integer(
        self, value: object, path: str, *, least: float = 0, most: float = 2**31 - 1
    ) -> int | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(path, f"must be a whole number, not {kind_of(value)}")
            return None
        if not self._within(value, path, least, most):
            return None
        return value

    def number(self, value: object, path: str, bounds: Bounds) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.problem(path, f"must be a number, not {kind_of(value)}")
            return None
        return float(value) if self._within(value, path, bounds.least, bounds.most) else None

    def boolean(self, value: object, path: str) -> bool | None:
        if not isinstance(value, bool):
            self.problem(path, f"must be true or false, not {kind_of(value)}")
            return None
        return value

    def choice(self, value: object, path: str, choices: Collection[str]) -> str | None:
        if isinstance(value, bool):
            word = '"ON"' if value else '"OFF"'
            self.problem(
                path,
                f"is {str(value).lower()}: YAML reads bare on, off, yes and no as booleans; "
                f"write {word} in quotes"
                if word.strip('"') in choices
                else f"must be one of {', '.join(choices)}, not {str(value).lower()}",
            )
            return None
        if not isinstance(value, str) or value not in choices:
            shown = repr(value) if isinstance(value, str) else kind_of(value)
            self.problem(path, f"must be one of {', '.join(choices)}, not {shown[:80]}")
            return None
        return value

    def nanoseconds(self, value: object, path: str, bounds: Bounds | None = None) -> int | None:
        """A duration such as "10s", "500ms" or "1h30m"; units ms, s, m, h, d."""
        written = isinstance(value, str) and len(value) <= LONGEST_DURATION
        if not (written and _DURATION.fullmatch(str(value))):
            shown = repr(value) if isinstance(value, str) else kind_of(value)
            self.problem(path, f'must be a duration such as "10s" or "5m", not {shown[:80]}')
            return None
        total = int(
            sum(Decimal(n) * _NANOSECONDS[unit] for n, unit in _DURATION_PART.findall(str(value)))
        )
        if total > _MAX_NANOSECONDS:
            self.problem(path, f"{value} is too long")
            return None
        if bounds is not None and not self._within(
            total / 1e9, path, bounds.least, bounds.most, unit=" s"
        ):
            return None
        return total

    def _within(
        self, value: float, path: str, least: float | None, most: float | None, unit: str = ""
    ) -> bool:
        if (least is None or value >= least) and (most is None or value <= most):
            return True
        if least is None:
            allowed = f"at most {most:,g}{unit}"
        elif most is None or most >= 2**31 - 1:
            allowed = f"at least {least:,g}{unit}"
        else:
            allowed = f"{least:,g} to {most:,g}{unit}"
        self.problem(path, f"must be {allowed}, not {value:,g}{unit}")
        return False

    def _field(self, into: Message, field: FieldDescriptor, value: object, path: str) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._map(into, field, value, path)
        elif field.is_repeated:
            self._list(into, field, value, path)
        elif field.message_type is not None:
            self._message(into, field, value, path)
        else:
            scalar = self._scalar(field, value, path)
            if scalar is not None:
                setattr(into, field.name, scalar)

    def _map(self, into: Message, field: FieldDescriptor, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            self.problem(path, f"must be a mapping, not {kind_of(value)}")
            return
        bounds = _bounds(field)
        if bounds is not None and bounds.items is not None and len(value) > bounds.items:
            self.problem(path, f"has {len(value)} entries; at most {bounds.items} are allowed")
            return
        for key, entry in value.items():
            if bounds is not None and bounds.keys and not re.fullmatch(bounds.keys, str(key)):
                self.problem(
                    path, f"has {str(key)[:80]!r}, and its keys are {bounds.keys_in_words}"
                )
                continue
            text = self.text(entry, f"{path}.{key}", bounds)
            if text is not None:
                getattr(into, field.name)[str(key)] = text

    def _list(self, into: Message, field: FieldDescriptor, value: object, path: str) -> None:
        if not isinstance(value, list):
            self.problem(path, f"must be a list, not {kind_of(value)}")
            return
        bounds = _bounds(field)
        if bounds is not None and bounds.items is not None and len(value) > bounds.items:
            self.problem(path, f"has {len(value)} entries; at most {bounds.items} are allowed")
            return
        seen: set[str] = set()
        for index, entry in enumerate(value):
            text = self.text(entry, f"{path}[{index}]", bounds)
            if text is None:
                continue
            if text in seen and field.name != "command":
                self.problem(f"{path}[{index}]", f"{text!r} is listed twice")
            seen.add(text)
            getattr(into, field.name).append(text)

    def _message(self, into: Message, field: FieldDescriptor, value: object, path: str) -> None:
        kind = field.message_type.full_name if field.message_type else ""
        target = getattr(into, field.name)
        if kind == "google.protobuf.Duration":
            nanoseconds = self.nanoseconds(value, path, _bounds(field))
            if nanoseconds is not None:
                target.FromNanoseconds(nanoseconds)
        elif kind == "peregrine.api.common.v1.Json":
            text = self._json(value, path)
            if text is not None:
                target.utf8 = text
        else:
            oneof = field.containing_oneof
            if oneof is not None and (other := into.WhichOneof(oneof.name)) is not None:
                self.problem(path, f"cannot be given together with {other}")
                return
            target.SetInParent()
            self.fill(target, value, path)

    def _scalar(self, field: FieldDescriptor, value: object, path: str) -> object:
        bounds = _bounds(field)
        if field.enum_type is not None:
            names = enum_names(field.enum_type)
            chosen = self.choice(value, path, names)
            return None if chosen is None else names[chosen]
        if field.type == FieldDescriptor.TYPE_STRING:
            if bounds is not None and bounds.choices:
                return self.choice(value, path, bounds.choices)
            return self.text(value, path, bounds)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self.boolean(value, path)
        if field.type in INTEGERS:
            least, most = INTEGERS[field.type]
            if bounds is not None:
                least = least if bounds.least is None else int(bounds.least)
                most = most if bounds.most is None else int(bounds.most)
            return self.integer(value, path, least=least, most=most)
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return self.number(value, path, bounds or Bounds())
        raise TypeError(f"{field.full_name} has a type that manifests cannot hold")

    def _json(self, value: object, path: str) -> bytes | None:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return text.encode("utf-8")
        except (TypeError, ValueError) as error:
            self.problem(path, f"cannot be written as JSON: {error}")
            return None


def enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """How a manifest writes the values of an enum: without the prefix, UNSPECIFIED left out."""
    zero = enum.values_by_number[0].name
    prefix = zero.removesuffix("UNSPECIFIED")
    spell = _SPELLING.get(enum.name, str.upper)
    return {
        spell(value.name.removeprefix(prefix)): value.number
        for value in enum.values
        if value.number != 0
    }


def kind_of(value: object) -> str:
    """What a value is, in the words of YAML."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return "text"
        case list():
            return "a list"
        case Mapping():
            return "a mapping"
    return type(value).__name__


def _wrong_text(value: str, bounds: Bounds) -> str:
    """What is wrong with a text, empty when nothing is."""
    size = len(value.encode("utf-8", "replace"))
    if bounds.bytes is not None and size > bounds.bytes:
        return f"is {size:,} bytes long; at most {bounds.bytes:,} are allowed"
    if bounds.length is not None and len(value) > bounds.length:
        return f"is {len(value):,} characters long; at most {bounds.length:,} are allowed"
    if bounds.least is not None and not value.strip(_BLANKS):
        return "is empty"
    if bounds.pattern is not None and not re.fullmatch(bounds.pattern, value):
        return f"must be {bounds.pattern_in_words}, not {value[:80]!r}"
    return ""


def _bounds(field: FieldDescriptor) -> Bounds | None:
    return BOUNDS.get(".".join(field.full_name.split(".")[-2:]))


def _unknown(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "").lower(), [k.lower() for k in known], 1)
    meant = next((name for name in known if close and name.lower() == close[0]), None)
    return f"is not a field here; did you mean {meant}?" if meant else "is not a field here"
