"""The CRDs, made from what `peregrine apply` reads: the protos and the table of their bounds.

    python -m tests.contract.reference

writes `k8s/base/crds/*.yaml`, too; a test compares the committed files with what it makes. So a
field that is added to a proto, or a bound that moves, reaches the API server in the same change.

What a schema can say is said there (types, enums, lengths, counts), and what needs a sentence is a
CEL rule with one: patterns, durations, and rules between fields. Every text, list and map has a
greatest size, because the API server computes the cost of the rules from it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client._bounds import (
    BOUNDS,
    DAY,
    DEFAULTS,
    DURATION,
    LONGEST_DURATION,
    REQUIRED,
    TOOL_POOL,
    UNWRITABLE,
    Bounds,
    Entry,
)
from peregrine.client._manifest import INTEGERS, enum_names
from tests.contract.crd_shapes import KINDS, Kind, seconds
from tests.contract.protos import Contract
from tests.contract.repository import ROOT

CRDS = ROOT / "k8s" / "base" / "crds"
MADE = "# Made by `python -m tests.contract.reference`; edit the protos or the bounds instead.\n"
GROUP, VERSION = "peregrine.dev", "v1alpha1"

Schema: TypeAlias = dict[str, Any]
Comments: TypeAlias = Mapping[str, str]

MESSAGES: Mapping[str, Descriptor] = {
    "Agent": orchestrator_pb2.AgentSpec.DESCRIPTOR,
    "Tool": tools_pb2.Tool.DESCRIPTOR,
    "CachePolicy": cache_pb2.Policy.DESCRIPTOR,
}
NAME = {
    "rule": "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$')",
    "message": "metadata.name must be 1 to 63 of a-z 0-9 -, with a letter or digit at both ends",
}


def crd(kind: Kind, comments: Comments) -> Schema:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "peregrine"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": [kind.short],
                "categories": ["peregrine"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*kind.columns],
                    "schema": {"openAPIV3Schema": _whole(kind, comments)},
                }
            ],
        },
    }


def spec_schema(kind: Kind, comments: Comments) -> Schema:
    """What stands under `spec`: from the proto, or from the table for the kind without one."""
    if kind.name in MESSAGES:
        schema = _message(MESSAGES[kind.name], comments)
    else:
        schema = {
            "type": "object",
            "required": [each.key for each in TOOL_POOL if each.default is None],
            "properties": {each.key: _entry(each) for each in TOOL_POOL},
        }
    return _with_rules(schema, kind.rules)


def _whole(kind: Kind, comments: Comments) -> Schema:
    return {
        "type": "object",
        "description": kind.about,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec_schema(kind, comments),
            "status": {"type": "object", "properties": dict(kind.status)},
        },
        "x-kubernetes-validations": [NAME],
    }


def _message(message: Descriptor, comments: Comments) -> Schema:
    unwritable = UNWRITABLE.get(message.name, ())
    properties = {
        field.json_name: _described(field, _field(field, comments), comments)
        for field in message.fields
        if field.name not in unwritable
    }
    schema: Schema = {"type": "object"}
    if required := REQUIRED.get(message.name):
        json_names = {field.name: field.json_name for field in message.fields}
        schema["required"] = [json_names[name] for name in required]
    return schema | {"properties": properties}


def _described(field: FieldDescriptor, schema: Schema, comments: Comments) -> Schema:
    text = " ".join(comments.get(field.full_name, "").split())
    return {"description": text} | schema if text else schema


def _field(field: FieldDescriptor, comments: Comments) -> Schema:
    key = ".".join(field.full_name.split(".")[-2:])
    bounds = BOUNDS.get(key, Bounds())
    kind = field.message_type.full_name if field.message_type is not None else ""
    schema: Schema
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        schema = _map(bounds)
    elif field.is_repeated:
        schema = {
            "type": "array",
            "maxItems": bounds.items,
            "items": _text(bounds),
            "x-kubernetes-list-type": "atomic" if field.name == "command" else "set",
        }
    elif kind == "google.protobuf.Duration":
        schema = _duration(bounds)
    elif kind == "peregrine.api.common.v1.Json":
        schema = _open(field.name)
    elif field.message_type is not None:
        schema = _with_rules(_message(field.message_type, comments), _rules_of(field))
    elif field.enum_type is not None:
        schema = {"type": "string", "enum": [*enum_names(field.enum_type)]}
    elif field.type in INTEGERS:
        schema = _integer(bounds, *INTEGERS[field.type])
    elif field.type == FieldDescriptor.TYPE_STRING:
        schema = _text(bounds)
    elif field.type == FieldDescriptor.TYPE_BOOL:
        schema = {"type": "boolean"}
    else:
        schema = {"type": "number", "minimum": bounds.least, "maximum": bounds.most}
    if key in DEFAULTS:
        schema["default"] = DEFAULTS[key]
    return schema


def _entry(entry: Entry) -> Schema:
    schema: Schema
    match entry.kind:
        case "integer":
            schema = _integer(entry.bounds, 0, 2**31 - 1)
        case "duration":
            schema = _duration(entry.bounds)
        case "boolean":
            schema = {"type": "boolean"}
        case "text":
            schema = _text(entry.bounds)
    if entry.default is not None:
        schema["default"] = entry.default
    return {"description": entry.about} | schema


def _integer(bounds: Bounds, least: int, most: int) -> Schema:
    greatest = most if bounds.most is None else int(bounds.most)
    # The API server keeps bounds as floating point: a greater one would come back as another, and
    # every apply would find a difference. The format holds 64 bits anyway.
    maximum = {"maximum": greatest} if greatest < 2**53 else {}
    return {
        "type": "integer",
        "format": "int64",
        "minimum": least if bounds.least is None else int(bounds.least),
    } | maximum


def _text(bounds: Bounds) -> Schema:
    if bounds.choices:
        return {"type": "string", "enum": [*bounds.choices]}
    schema: Schema = {"type": "string", "maxLength": bounds.characters}
    rules = []
    if bounds.bytes is not None:
        rules.append((f"size(bytes(self)) <= {bounds.bytes}", f"is over {bounds.bytes:,} bytes"))
    if bounds.least is not None:
        schema = {"type": "string", "minLength": 1, "maxLength": bounds.characters}
        rules.append((r'self.matches("[^ \t\r\n]")', "must not be empty"))
    if bounds.pattern is not None:
        rules.append(
            (f"self.matches({_quoted(bounds.pattern)})", f"must be {bounds.pattern_in_words}")
        )
    return _with_rules(schema, rules)


def _map(bounds: Bounds) -> Schema:
    schema: Schema = {
        "type": "object",
        "maxProperties": bounds.items,
        "additionalProperties": _text(bounds),
    }
    if bounds.keys is None:
        return schema
    rule = f"self.all(key, key.matches({_quoted(bounds.keys)}))"
    return _with_rules(schema, [(rule, f"keys must be {bounds.keys_in_words}")])


def _duration(bounds: Bounds) -> Schema:
    schema: Schema = {
        "type": "string",
        "maxLength": LONGEST_DURATION,
        "pattern": f"^{DURATION}$",
    }
    least, most = bounds.least or 0.0, bounds.most
    if most is None:
        raise AssertionError("a duration needs bounds: CEL has no other way to know its size")
    rule = f"{seconds('self')} <= {float(most)!r}"
    if least:
        rule = f"{seconds('self')} >= {float(least)!r} && {rule}"
    return _with_rules(schema, [(rule, f"must be from {_spoken(least)} to {_spoken(most)}")])


def _open(name: str) -> Schema:
    anything = {"x-kubernetes-preserve-unknown-fields": True}
    if name == "body":
        return anything
    kind = {"type": "string", "enum": ["object"]}
    return {"type": "object", "required": ["type"], "properties": {"type": kind}} | anything


def _rules_of(field: FieldDescriptor) -> Iterable[tuple[str, str]]:
    if field.name == "mcp":
        rule = "has(self.url) != (has(self.command) && size(self.command) > 0)"
        yield rule, "needs exactly one of url and command"


def _with_rules(schema: Schema, rules: Iterable[tuple[str, str]]) -> Schema:
    written = [{"rule": rule, "message": message} for rule, message in rules]
    return schema | {"x-kubernetes-validations": written} if written else schema


def _quoted(pattern: str) -> str:
    return json.dumps(f"^(?:{pattern})$")


def _spoken(duration: float) -> str:
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s")):
        if duration and duration % size == 0:
            return f"{duration / size:g}{unit}"
    return f"{duration * 1000:g}ms"


def comments_of(contract: Contract) -> Comments:
    return {f"{field.message}.{field.name}": field.comment for field in contract.fields()}


def pages(comments: Comments) -> Iterator[tuple[Path, str]]:
    """Each file below k8s/base/crds, with the text it should have."""
    for kind in KINDS:
        made = crd(kind, comments)
        text = yaml.dump(made, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
        yield CRDS / f"{kind.plural}.yaml", MADE + text
    names = "".join(f"  - {kind.plural}.yaml\n" for kind in KINDS)
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    yield CRDS / "kustomization.yaml", MADE + head + names


class _Plain(yaml.SafeDumper):
    """Without anchors, which kubectl reads and people do not."""

    def ignore_aliases(self, data: object) -> bool:
        return True
