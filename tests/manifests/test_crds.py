"""The CRDs as they are installed: what a real API server would change in them, and the examples."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.contract.repository import ROOT
from tests.manifests.rendered import Object, needs_kubectl, objects

pytestmark = needs_kubectl

EXAMPLES = [
    pytest.param(document, id=f"{path.stem}")
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
# The API server keeps bounds as floating point numbers.
EXACT = 2**53


def schemas() -> dict[str, Object]:
    return {
        each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in objects("dev")
        if each["kind"] == "CustomResourceDefinition"
    }


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def closed(schema: Any) -> Any:
    """With unknown fields refused, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(each) for name, each in schema.items()}
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_all_four_kinds_are_there() -> None:
    assert set(schemas()) == {"Agent", "Tool", "ToolPool", "CachePolicy"}


def test_no_number_is_one_that_the_api_server_would_round() -> None:
    assert [each for each in numbers(list(schemas().values())) if abs(each) >= EXACT] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_valid(example: Object) -> None:
    schema = closed(schemas()[example["kind"]]["properties"]["spec"])
    jsonschema.Draft202012Validator(schema).validate(example["spec"])
    assert example["apiVersion"] == "peregrine.dev/v1alpha1"


def test_an_example_with_an_unknown_field_is_refused() -> None:
    schema = closed(schemas()["ToolPool"]["properties"]["spec"])
    with pytest.raises(jsonschema.ValidationError, match="replicaCount"):
        jsonschema.Draft202012Validator(schema).validate(
            {"deployment": "tools", "maxReplicas": 3, "replicaCount": 2}
        )
