"""Messages as JSON for programs: one object a line, under the names of the protos.

This is protobuf's JSON with three differences that make it pleasant to read with `jq`: 64-bit
integers are numbers, not strings; open JSON (`common.v1.Json`) stands as the JSON it is, not as
base64; fields that have a value by default (0, false, "", []) are there, so that a name never comes
and goes. Fields that can be unset are left out while they are.
"""

import base64
import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_JSON = "peregrine.api.common.v1.Json"


def line(message: Message) -> str:
    """The message as one line of JSON."""
    return dumps(plain(message))


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(message: Message) -> Any:
    """The message as what `json.dumps` takes."""
    name = message.DESCRIPTOR.full_name
    if name == _JSON:
        return _open_json(message)
    if name.startswith("google.protobuf."):
        return json_format.MessageToDict(message)
    result: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            result[field.name] = dict(value)
        elif field.is_repeated:
            result[field.name] = [_value(field, each) for each in value]
        else:
            result[field.name] = _value(field, value)
    return result


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return base64.b64encode(value).decode("ascii")
    return value


def _open_json(message: Message) -> Any:
    text: bytes = message.utf8  # type: ignore[attr-defined]  # the descriptor says it is Json
    try:
        return json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace")
