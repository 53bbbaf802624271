"""Messages as JSON for programs: one object a line, under the names of the protos.

This is protobuf's JSON with three differences that make it pleasant to read with `jq`: 64-bit
integers are numbers, not strings; open JSON (`common.v1.Json`) stands as the JSON it is, not as
base64; fields that have a value by default (0, false, "", []) are there, so that a name never comes
and goes. Fields that can be unset are left out while they are.

The same message always gives the same bytes, in any process: fields stand in the order of the
proto, maps by key. The command line and the web edge both speak this form.

A message type is looked at once; after that a message costs one pass over its fields.
"""

import base64
import functools
import json
from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_Convert: TypeAlias = Callable[[Any], Any]


def line(message: Message) -> str:
    """The message as one line of JSON."""
    return dumps(plain(message))


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(message: Message) -> Any:
    """The message as what `json.dumps` takes."""
    return _converter(message.DESCRIPTOR)(message)


@functools.cache
def _converter(descriptor: Descriptor) -> _Convert:
    match descriptor.full_name:
        case "peregrine.api.common.v1.Json":
            return _open_json
        case "google.protobuf.Timestamp" | "google.protobuf.Duration":
            return _time
        case name if name.startswith("google.protobuf."):
            return json_format.MessageToDict
    # Looked up at the first message, because a type may contain itself.
    fields: list[tuple[str, bool, _Convert | None]] = []

    def convert(message: Any) -> dict[str, Any]:
        if not fields:
            fields.extend((each.name, each.has_presence, _field(each)) for each in own)
        result: dict[str, Any] = {}
        for name, optional, inner in fields:
            if optional and not message.HasField(name):
                continue
            value = getattr(message, name)
            result[name] = value if inner is None else inner(value)
        return result

    own = descriptor.fields
    return convert


def _field(field: FieldDescriptor) -> _Convert | None:
    """How the value of a field becomes plain; None when it is already."""
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        inner = _one(message.fields_by_name["value"])
        return lambda entries: {
            str(key): entries[key] if inner is None else inner(entries[key])
            for key in sorted(entries)
        }
    inner = _one(field)
    if field.is_repeated:
        return list if inner is None else lambda values: [inner(each) for each in values]
    return inner


def _one(field: FieldDescriptor) -> _Convert | None:
    if field.message_type is not None:
        return _converter(field.message_type)
    if field.enum_type is not None:
        names = {number: each.name for number, each in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode("ascii")
    return None


def _time(message: Any) -> str:
    text: str = message.ToJsonString()
    return text


def _open_json(message: Any) -> Any:
    text: bytes = message.utf8
    try:
        return json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace")
