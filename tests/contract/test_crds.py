"""`kubectl apply` and `peregrine apply` take the same: the CRDs say what the parser reads.

The schemas are walked beside the parser: whatever a schema describes, the parser must take when it
is right and refuse when it is not, and the parser must know no field that the schema leaves out.
The CEL rules run on a real API server (`make test-cluster`); here it is checked that each bound of
the parser is in a rule or in the schema.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from peregrine.client import resources
from peregrine.client._bounds import BOUNDS, DURATION, TOOL_POOL
from peregrine.client.resources import ResourceError, ToolPool
from tests.contract import crds
from tests.contract.crd_shapes import KINDS, Kind
from tests.contract.protos import compiled
from tests.contract.repository import PROTOS, ROOT

EXAMPLES = [
    document
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document
]
SMALLEST: dict[str, dict[str, Any]] = {
    "Agent": {"model": "m"},
    "Tool": {"builtin": {}},
    "ToolPool": {"deployment": "tools", "maxReplicas": 4},
    "CachePolicy": {"namespace": "tool:x"},
}
# What the format int64 holds, where no smaller bound is said.
INT64 = 2**63 - 1
# A right value where the schema alone does not tell one.
RIGHT: dict[str, Any] = {
    "spec.approvals": [],
    "spec.http.url": "https://example.com/{a}",
    "spec.http.body": {"a": [1, None]},
    "spec.mcp.url": "https://example.com/mcp",
    "spec.python.function": "package.module:function",
    "spec.mcp.approvedDigests": ["sha256:" + "0" * 64],
    "spec.inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
    "spec.http": {"url": "https://example.com"},
    "spec.mcp": {"command": ["server"]},
    "spec.python": {"function": "a:b"},
    "spec.minReplicas": 1,
    "spec.fallback": 3,
}


@pytest.fixture(scope="module")
def comments(tmp_path_factory: pytest.TempPathFactory) -> crds.Comments:
    return crds.comments_of(compiled(PROTOS, tmp_path_factory.mktemp("protos")))


@pytest.fixture(scope="module")
def committed() -> dict[str, dict[str, Any]]:
    return {kind.name: _committed(kind) for kind in KINDS}


def _committed(kind: Kind) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((crds.CRDS / f"{kind.plural}.yaml").read_text())
    return made


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    (version,) = crd["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def test_the_committed_crds_are_the_ones_that_are_made(comments: crds.Comments) -> None:
    stale = [
        path.name
        for path, text in crds.pages(comments)
        if not path.exists() or path.read_text() != text
    ]
    assert stale == [], "run .venv/bin/python -m tests.contract.reference"


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, below in schema.get("properties", {}).items():
        yield from nodes(below, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def test_everything_has_a_type_and_a_greatest_size(committed: dict[str, dict[str, Any]]) -> None:
    sizes = {"string": "maxLength", "array": "maxItems"}
    for kind, crd in committed.items():
        for path, node in nodes(schema_of(crd), kind):
            open_ended = node.get("x-kubernetes-preserve-unknown-fields")
            assert open_ended or node.get("type"), path
            if node.get("type") in sizes and not {"enum", "format"} & node.keys():
                known = path in {f"{kind}.apiVersion", f"{kind}.kind"}
                assert known or sizes[node["type"]] in node, path
            if "additionalProperties" in node:
                assert node["maxProperties"], path


def test_every_rule_says_what_is_wrong(committed: dict[str, dict[str, Any]]) -> None:
    for kind, crd in committed.items():
        for path, node in nodes(schema_of(crd), kind):
            for rule in node.get("x-kubernetes-validations", ()):
                assert len(rule["message"].split()) > 2, (path, rule)


# ---- Both directions ----


def manifest(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": resources.API_VERSION,
        "kind": kind,
        "metadata": {"name": "one"},
        "spec": spec,
    }


def problems(kind: str, spec: dict[str, Any]) -> list[str]:
    try:
        resources.read(manifest(kind, spec))
    except ResourceError as error:
        return [f"{each.field}: {each.message}" for each in error.problems]
    return []


def schema_problems(crd: dict[str, Any], document: dict[str, Any]) -> list[str]:
    """As the API server sees a document with strict fields, but for the CEL rules."""
    return [
        error.message
        for error in jsonschema.Draft202012Validator(_strict(schema_of(crd))).iter_errors(document)
    ]


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    made = {
        key: value
        for key, value in schema.items()
        if not key.startswith("x-") and key not in ("format", "default")
    }
    if schema.get("format") == "int64":
        made.setdefault("maximum", INT64)
    made["properties"] = {
        key: _strict(below) for key, below in schema.get("properties", {}).items()
    }
    if "items" in schema:
        made["items"] = _strict(schema["items"])
    if schema.get("x-kubernetes-list-type") == "set":
        made["uniqueItems"] = True
    if "additionalProperties" in schema:
        made["additionalProperties"] = _strict(schema["additionalProperties"])
    elif made["properties"] and "x-kubernetes-preserve-unknown-fields" not in schema:
        made["additionalProperties"] = schema.get("type") == "object" and (
            set(made["properties"]) == set()
        )
    return made


def right(path: str, schema: dict[str, Any]) -> Any:
    """A value that the schema and its rules allow."""
    if path in RIGHT:
        return copy.deepcopy(RIGHT[path])
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "integer" | "number":
            return schema.get("maximum", INT64)
        case "boolean":
            return True
        case "string":
            return "1s" if "pattern" in schema else "a"
        case "array":
            return [right(f"{path}[]", schema["items"])]
        case "object" if "additionalProperties" in schema:
            return {"a": right(f"{path}[]", schema["additionalProperties"])}
        case "object":
            return {}
    raise AssertionError(f"{path}: no right value is known")


def wrong(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values that the schema or its rules refuse, with what is wrong with them."""
    match schema.get("type"):
        case "integer" | "number":
            yield "too small", schema["minimum"] - 1
            yield "too large", schema.get("maximum", INT64) + 1
            yield "text", "1"
        case "boolean":
            yield "text", "true"
        case "string" if "enum" in schema:
            yield "another word", "something"
            yield "a number", 1
        case "string":
            yield "a number", 1
            yield "too long", "1" * (schema["maxLength"] + 1)
            if "pattern" in schema:
                yield "not a duration", "soon"
            if schema.get("minLength"):
                yield "empty", ""
        case "array":
            yield "text", "a"
            if schema["x-kubernetes-list-type"] == "set":
                (one,) = right(path, schema) or ["calculator"]
                yield "the same twice", [one, one]
            yield "too many", [f"a{number}" for number in range(schema["maxItems"] + 1)]
        case "object":
            yield "text", "a"
            if "additionalProperties" in schema:
                many = range(schema["maxProperties"] + 1)
                yield "too many", {f"a{number}": "a" for number in many}
            elif "x-kubernetes-preserve-unknown-fields" not in schema:
                yield "an unknown field", {"nonsense": 1}


def placed(kind: str, path: str, value: Any) -> dict[str, Any]:
    """A spec with `value` at a path, and what must stand beside it."""
    keys = path.removeprefix("spec.").split(".")
    spec = copy.deepcopy(SMALLEST[kind])
    if kind == "Tool" and keys[0] in ("http", "mcp", "python"):
        spec = {
            "description": "d",
            "effect": "READ",
            "inputSchema": {"type": "object"},
            keys[0]: copy.deepcopy(RIGHT[f"spec.{keys[0]}"]),
        }
        if keys == ["mcp", "url"]:
            spec["mcp"] = {}
    if keys == ["scaleToZero"]:
        spec["minReplicas"] = 0
    place = spec
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    return spec


def fields(kind: Kind) -> list[tuple[str, dict[str, Any]]]:
    spec = schema_of(_committed(kind))["properties"]["spec"]
    return [
        (path, node)
        for path, node in nodes(spec, "spec")
        if path != "spec" and "[]" not in path and "inputSchema." not in path
    ]


FIELDS = [
    pytest.param(kind, *field, id=f"{kind.name} {field[0]}")
    for kind in KINDS
    for field in fields(kind)
]


@pytest.mark.parametrize(("kind", "path", "schema"), FIELDS)
def test_what_the_schema_allows_the_parser_takes(
    kind: Kind, path: str, schema: dict[str, Any], committed: dict[str, dict[str, Any]]
) -> None:
    values = schema["enum"] if "enum" in schema else [right(path, schema)]
    for value in values:
        spec = placed(kind.name, path, value)
        assert schema_problems(committed[kind.name], manifest(kind.name, spec)) == []
        assert problems(kind.name, spec) == []


@pytest.mark.parametrize(("kind", "path", "schema"), FIELDS)
def test_what_the_schema_refuses_the_parser_refuses(
    kind: Kind, path: str, schema: dict[str, Any], committed: dict[str, dict[str, Any]]
) -> None:
    for what, value in wrong(path, schema):
        spec = placed(kind.name, path, value)
        assert schema_problems(committed[kind.name], manifest(kind.name, spec)), (path, what)
        assert problems(kind.name, spec), (path, what)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_parser_knows_no_field_that_the_schema_leaves_out(kind: Kind) -> None:
    described = {path.removeprefix("spec.") for path, _ in fields(kind)}
    if kind.name == "ToolPool":
        assert described == {entry.key for entry in TOOL_POOL}
        return
    known = set()
    for path, message in _messages(crds.MESSAGES[kind.name], ""):
        unwritable = crds.UNWRITABLE.get(message.name, ())
        known |= {
            f"{path}{field.json_name}" for field in message.fields if field.name not in unwritable
        }
    assert described == known


def _messages(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, message
    for field in message.fields:
        below = field.message_type
        if below is None or below.GetOptions().map_entry or below.name in ("Duration", "Json"):
            continue
        yield from _messages(below, f"{path}{field.json_name}.")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_defaults_are_those_of_the_parser(kind: Kind) -> None:
    spec = schema_of(_committed(kind))["properties"]["spec"]
    defaults = {
        key: below["default"] for key, below in spec["properties"].items() if "default" in below
    }
    smallest = SMALLEST[kind.name]
    unsaid = resources.read(manifest(kind.name, smallest)).value
    assert resources.read(manifest(kind.name, {**defaults, **smallest})).value == unsaid
    for path, node in nodes(spec, "spec"):
        assert "default" not in node or path.count(".") == 1, f"{path} is not compared here"


def test_a_pool_made_in_code_has_the_defaults_of_one_from_yaml() -> None:
    read = resources.read(manifest("ToolPool", SMALLEST["ToolPool"])).value
    assert read == ToolPool(name="one", deployment="tools", max_replicas=4)
    known = {entry.attribute for entry in TOOL_POOL} | {"name"}
    assert known == {field.name for field in dataclasses.fields(ToolPool)}


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda document: document["metadata"]["name"])
def test_examples_are_valid(document: dict[str, Any], committed: dict[str, dict[str, Any]]) -> None:
    assert schema_problems(committed[document["kind"]], document) == []
    resources.read(document)


@pytest.mark.parametrize(("key", "bounds"), BOUNDS.items())
def test_a_pattern_is_read_alike_by_python_and_re2(key: str, bounds: Any) -> None:
    for pattern in (bounds.pattern, bounds.keys, DURATION):
        if pattern is not None:
            assert not re.search(r"\\[a-zA-Z0-9]|\(\?[^:]", pattern), key
            assert pattern.isascii()


def test_the_names_are_those_that_the_documents_use(committed: dict[str, dict[str, Any]]) -> None:
    names = {kind: crd["spec"]["names"] for kind, crd in committed.items()}
    assert set(names) == set(resources.KINDS)
    shorts = [short for each in names.values() for short in each["shortNames"]]
    assert len(set(shorts)) == len(shorts)


def test_a_crd_that_was_edited_is_found(comments: crds.Comments, tmp_path: Path) -> None:
    path, text = next(iter(crds.pages(comments)))
    assert path.read_text() == text
    assert path.read_text().replace("maxLength: 128", "maxLength: 129") != text
