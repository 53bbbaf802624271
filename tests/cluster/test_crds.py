"""A real API server takes what `peregrine apply` takes: every field, right and wrong, tried dry.

Runs where PEREGRINE_TEST_KUBECONFIG names a cluster that may get our CRDs; nothing else is left in
it. `tests/contract/test_crds.py` compares the schemas without one; the CEL rules need one.
"""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from peregrine.client import resources
from peregrine.client.resources import ResourceError
from peregrine_operator.handlers import login
from peregrine_operator.kubernetes import OURS, PLURALS, ApiError, Kubernetes
from peregrine_operator.metrics import Metrics
from tests.contract import crds
from tests.contract.crd_shapes import KINDS, Kind
from tests.contract.repository import ROOT
from tests.contract.test_crds import fields, manifest, placed, right, wrong

CONFIG = os.environ.get("PEREGRINE_TEST_KUBECONFIG", "")
pytestmark = pytest.mark.skipif(not CONFIG, reason="PEREGRINE_TEST_KUBECONFIG names no cluster")

HTTP: dict[str, Any] = {"description": "d", "effect": "READ", "inputSchema": {"type": "object"}}


def http(**fields: Any) -> dict[str, Any]:
    return {**HTTP, "http": fields}


# (kind, spec, what the API server says of it; empty where it is right)
RULES: list[tuple[str, dict[str, Any], str]] = [
    ("Agent", {"model": " "}, "must not be empty"),
    ("Agent", {"model": "m", "tools": ["a"], "approvals": ["b"]}, "add it there too"),
    ("Agent", {"model": "m", "tools": ["a b"]}, "must be 1 to 64"),
    ("Agent", {"model": "m", "limits": {"maxDuration": "61m"}}, "must be from 1ms to 1h"),
    ("Agent", {"model": "m", "limits": {"maxDuration": "1h"}}, ""),
    ("Agent", {"model": "m", "limits": {"maxDuration": "0.5h30.5s"}}, ""),
    ("Agent", {"model": "m", "systemPrompt": "é" * 32_769}, "is over 65,536 bytes"),
    ("Agent", {"model": "m", "systemPrompt": "é" * 32_768}, ""),
    ("Tool", {}, "needs exactly one of"),
    ("Tool", {"builtin": {}, "mcp": {"url": "https://a/"}}, "needs exactly one of"),
    ("Tool", {"http": {"url": "https://a/"}}, "needs description, effect"),
    ("Tool", http(url="ftp://a/"), "must be http://HOST"),
    ("Tool", http(url="https://{host}/"), "must be http://HOST"),
    ("Tool", http(url="https://a/b#c"), "must be http://HOST"),
    ("Tool", http(url="${OTHER}/weather"), "must be http://HOST"),
    ("Tool", http(url="${PEREGRINE_EXAMPLE_HTTP_URL}/weather?city={city}"), ""),
    ("Tool", http(url="https://a/", headers={"a b": "c"}), "keys must be names of headers"),
    ("Tool", http(url="https://a/", headers={"a": "c\nd"}), "must be one line"),
    ("Tool", http(url="https://a/", secretHeaders={"A": "sk live"}), "the name of a secret"),
    ("Tool", {"mcp": {}}, "exactly one of url and command"),
    ("Tool", {"mcp": {"url": "https://a/", "command": ["b"]}}, "exactly one of url and command"),
    ("Tool", {**HTTP, "python": {"function": "a.b"}}, "must be package.module:function"),
    ("Tool", {"builtin": {}, "timeout": "301s"}, "must be from 1ms to 5m"),
    ("ToolPool", {"deployment": "t", "maxReplicas": 1}, "minReplicas must not be more"),
    ("ToolPool", {"deployment": "T!", "maxReplicas": 5}, "the name of a Deployment"),
    ("ToolPool", {"deployment": "t", "maxReplicas": 5, "fallback": 6}, "must be between"),
    ("ToolPool", {"deployment": "t", "maxReplicas": 5, "fallback": 1}, "must be between"),
    ("ToolPool", {"deployment": "t", "maxReplicas": 5, "fallback": 5}, ""),
    ("ToolPool", {"deployment": "t", "maxReplicas": 5, "scaleToZero": True}, "needs minReplicas 0"),
    ("ToolPool", {"deployment": "t", "maxReplicas": 5, "expectedService": "2h"}, "must be from"),
    (
        "ToolPool",
        {"deployment": "t", "maxReplicas": 5, "minReplicas": 0, "scaleToZero": True},
        "",
    ),
    ("CachePolicy", {"namespace": "a", "minTtl": "2h", "maxTtl": "1h"}, "must not be longer"),
    ("CachePolicy", {"namespace": "a", "ttl": "1s", "minTtl": "5s"}, "must not be longer"),
    ("CachePolicy", {"namespace": "a", "ttl": "1d", "maxTtl": "24h"}, ""),
]


@pytest.fixture(scope="module")
def cluster() -> str:
    """The kubeconfig of a cluster that has the CRDs."""
    command = ["kubectl", "--kubeconfig", CONFIG, "apply", "--server-side", "--force-conflicts"]
    subprocess.run([*command, "-k", str(crds.CRDS)], check=True, capture_output=True)
    return CONFIG


@pytest.fixture
async def kubernetes(cluster: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kubernetes]:
    monkeypatch.setenv("KUBECONFIG", cluster)
    metrics = Metrics(CollectorRegistry())
    async with Kubernetes(login=login, metrics=metrics) as opened:
        yield opened


async def refusal(kubernetes: Kubernetes, kind: str, spec: dict[str, Any], name: str) -> str:
    """What the API server says of a resource that it would not take."""
    body = json.loads(json.dumps(manifest(kind, spec)))
    body["metadata"] = {"name": name, "namespace": "default"}
    path = f"{OURS}/namespaces/default/{PLURALS[kind]}"
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        await kubernetes.request("POST", path, body=body, params=params)
    except ApiError as error:
        assert 400 <= error.status < 500, error
        return error.message
    return ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_every_field_is_taken_and_refused_as_by_the_parser(
    kubernetes: Kubernetes, kind: Kind
) -> None:
    differ: dict[tuple[str, str], str] = {}
    for path, schema in fields(kind):
        values = schema["enum"] if "enum" in schema else [right(path, schema)]
        tried = [("right", value) for value in values] + list(wrong(path, schema))
        for what, value in tried:
            said = await refusal(kubernetes, kind.name, placed(kind.name, path, value), "one")
            if bool(said) == (what == "right"):
                differ[path, what] = said
    assert differ == {}


@pytest.mark.parametrize(("kind", "spec", "said"), RULES)
async def test_a_rule_says_what_is_wrong(
    kubernetes: Kubernetes, kind: str, spec: dict[str, Any], said: str
) -> None:
    found = await refusal(kubernetes, kind, spec, "one")
    assert said in found
    assert bool(found) == bool(said)
    try:
        resources.read(manifest(kind, spec))
        taken = True
    except ResourceError:
        taken = False
    assert taken == (not said)


async def test_a_name_that_services_would_refuse_is_refused(kubernetes: Kubernetes) -> None:
    assert "metadata.name must be" in await refusal(kubernetes, "Agent", {"model": "m"}, "a.b")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_taken(cluster: str, path: Path) -> None:
    command = ["kubectl", "--kubeconfig", cluster, "apply", "--server-side", "--dry-run=server"]
    subprocess.run([*command, "-f", str(path)], check=True, capture_output=True)
