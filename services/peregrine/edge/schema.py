"""The OpenAPI document's schemas, made from the protos: what `jsonl` writes is what it says.

FastAPI describes the routes; messages are described here, from the descriptors that they are
written by, so that the document cannot drift from the protos.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from peregrine.edge import problems

PROBLEM = "Problem"

_INTEGERS = frozenset(
    {
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)


def reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def message(descriptor: Descriptor, description: str) -> dict[str, Any]:
    """An OpenAPI response of one message."""
    return {
        "description": description,
        "content": {"application/json": {"schema": reference(descriptor.name)}},
    }


def sent_event(data: str) -> dict[str, Any]:
    """One event of a stream whose data is a message."""
    text = {"type": "string", "contentMediaType": "application/json"}
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "id": {"type": "string", "description": "The position; none on a problem."},
            "event": {"type": "string", "description": "The kind of the payload, or problem."},
            "data": {**text, "contentSchema": reference(data)},
        },
    }


def problem() -> dict[str, Any]:
    return {
        "description": "What is wrong, with a stable reason.",
        "content": {problems.MEDIA_TYPE: {"schema": reference(PROBLEM)}},
    }


def document(app: FastAPI, messages: Iterable[type[Message]]) -> dict[str, Any]:
    """The whole document."""
    whole = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found: dict[str, Any] = {PROBLEM: _PROBLEM}
    for each in messages:
        # mypy sees two kinds of descriptor; at run time there is one.
        descriptor: Any = each.DESCRIPTOR
        _describe(descriptor, found)
    whole["components"]["schemas"] = dict(sorted((found | schemas).items()))
    return whole


def _describe(descriptor: Descriptor, found: dict[str, Any]) -> None:
    if descriptor.name in found:
        return
    schema: dict[str, Any] = {"type": "object"}
    found[descriptor.name] = schema
    schema["properties"] = {each.name: _field(each, found) for each in descriptor.fields}
    required = [each.name for each in descriptor.fields if not each.has_presence]
    if required:
        schema["required"] = required


def _field(field: FieldDescriptor, found: dict[str, Any]) -> dict[str, Any]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        value = _one(kind.fields_by_name["value"], found)
        return {"type": "object", "additionalProperties": value}
    if field.is_repeated:
        return {"type": "array", "items": _one(field, found)}
    return _one(field, found)


def _one(field: FieldDescriptor, found: dict[str, Any]) -> dict[str, Any]:
    if (kind := field.message_type) is not None:
        match kind.full_name:
            case "google.protobuf.Timestamp":
                return {"type": "string", "format": "date-time"}
            case "google.protobuf.Duration":
                return {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"}
            case "peregrine.api.common.v1.Json":
                return {"description": "Any JSON."}
        _describe(kind, found)
        return reference(kind.name)
    if field.enum_type is not None:
        return {"type": "string", "enum": [each.name for each in field.enum_type.values]}
    if field.type in _INTEGERS:
        return {"type": "integer"}
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return {"type": "number"}
    return {"type": "boolean" if field.type == FieldDescriptor.TYPE_BOOL else "string"}


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457, with the gRPC code and the stable reason.",
    "required": ["type", "title", "status", "detail", "code", "reason"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "The canonical gRPC code."},
        "reason": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]+$"},
        "retry_after": {"type": "number", "description": "Seconds; also the header Retry-After."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "description"],
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
    },
}
