"""Many custom resources: how long a look at one takes, and what the operator needs for all."""

import json
import math
import re
import time
import urllib.request
from collections import defaultdict
from typing import Any

from tests.cluster.kubectl import NAMESPACE, Failed, forwarded, kubectl, until

ELSEWHERE = "peregrine-many"
LOOK_SECONDS = 2.0
MEMORY = 256 * 2**20
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def resources(count: int) -> list[dict[str, Any]]:
    """Six of ten are tools, three agents, the rest policies and pools."""
    made = []
    for number in range(count):
        match number % 10:
            case 0 | 1 | 2 | 3 | 4 | 5:
                kind, spec = "Tool", _tool(number)
            case 6 | 7 | 8:
                kind = "Agent"
                spec = {"model": "claude-haiku-5-5", "tools": [f"many_{number - number % 10}"]}
            case _ if number % 20 == 9:
                kind, spec = "CachePolicy", {"namespace": f"tool:many_{number - 9}", "ttl": "1m"}
            case _:
                kind, spec = "ToolPool", {"deployment": f"many-{number}", "maxReplicas": 3}
        made.append(
            {
                "apiVersion": "peregrine.dev/v1alpha1",
                "kind": kind,
                "metadata": {
                    "name": f"many-{number}",
                    "namespace": NAMESPACE if kind == "ToolPool" else ELSEWHERE,
                    "labels": {"peregrine.dev/many": "true"},
                },
                "spec": spec,
            }
        )
    return made


def _tool(number: int) -> dict[str, Any]:
    return {
        "name": f"many_{number}",
        "description": f"Number {number} of many.",
        "effect": "READ",
        "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
        "http": {"url": f"https://many.example.com/{number}?city={{city}}"},
    }


def bear(count: int) -> str:
    """Applies them, waits until each says how it is, changes all, and asks the operator."""
    kubectl("create", "namespace", ELSEWHERE)
    try:
        before = _metrics()
        _apply(resources(count))
        _, told = until(
            lambda: _settled(count), seconds=600, what=f"all {count} are told about", interval=2
        )
        changed = resources(count)
        for each in changed:
            if each["kind"] in ("Tool", "Agent"):
                each["spec"]["description"] = "Changed."
        _apply(changed)
        until(lambda: _settled(count), seconds=600, what="all are told about again", interval=2)
        time.sleep(60)  # two lists of everything
        after = _metrics()
    finally:
        for kinds, namespace in (
            ("toolpools", NAMESPACE),
            ("agents,tools,cachepolicies", ELSEWHERE),
        ):
            kubectl(
                *("--namespace", namespace, "delete", kinds, "--wait=true"),
                *("--selector", "peregrine.dev/many=true"),
                seconds=600,
            )
        kubectl("delete", "namespace", ELSEWHERE, "--wait=true", seconds=300)
    looks, slow = _percentile(before, after, 0.95)
    memory = after["process_resident_memory_bytes"][""]
    seen = (
        f"{count} told about {told:.0f} s after the apply; {looks} looks, 95 of 100 within "
        f"{slow:g} s; {memory / 2**20:.0f} MiB"
    )
    if slow > LOOK_SECONDS or memory > MEMORY:
        raise Failed(f"too slow or too large: {seen}")
    return seen


def _apply(made: list[dict[str, Any]]) -> None:
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
    kubectl("apply", "--server-side", "--filename", "-", given=document, seconds=600)


def _settled(count: int) -> bool:
    told = 0
    for kinds, namespace in (("toolpools", NAMESPACE), ("agents,tools,cachepolicies", ELSEWHERE)):
        listed = kubectl(
            *("--namespace", namespace, "get", kinds, "--output", "json"),
            *("--selector", "peregrine.dev/many=true"),
        )
        for each in json.loads(listed)["items"]:
            status = each.get("status", {})
            conditions = {c["type"]: c for c in status.get("conditions", ())}
            current = status.get("observedGeneration") == each["metadata"]["generation"]
            ready = conditions.get("Ready", {}).get("status")
            missing = each["kind"] == "ToolPool" and ready == "False"
            told += current and (ready == "True" or missing)
    if told < count:
        raise Failed(f"{told} of {count}")
    return True


def _metrics() -> dict[str, dict[str, float]]:
    """By name, then by labels as they are written."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    with (
        forwarded(NAMESPACE, "deployment/operator", 9090) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer,
    ):
        for line in answer.read().decode().splitlines():
            if sample := _SAMPLE.match(line):
                found[sample[1]][sample[2] or ""] = float(sample[3])
    return found


def _percentile(
    before: dict[str, dict[str, float]], after: dict[str, dict[str, float]], share: float
) -> tuple[int, float]:
    """How many looks there were, and the bucket that so many of them are within."""
    name = "peregrine_operator_reconcile_seconds_bucket"
    within: dict[float, float] = defaultdict(float)
    for labels, count in after[name].items():
        edge = float(re.findall(r'le="([^"]+)"', labels)[0])
        within[edge] += count - before[name].get(labels, 0.0)
    looks = within[math.inf]
    return int(looks), min(edge for edge, count in within.items() if count >= share * looks)
