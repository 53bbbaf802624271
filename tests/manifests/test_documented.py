"""What the pages show to be applied: it can be, and asks for what is exported."""

import re
from typing import Any

import pytest
import yaml

from tests.contract.repository import ROOT
from tests.manifests.test_monitoring import EXPORTED, unknown

AUTOSCALING = (ROOT / "docs" / "autoscaling.md").read_text()


def shown(page: str, kind: str) -> dict[str, Any]:
    """The one resource of this kind that a page shows."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (found,) = (each for text in blocks for each in [yaml.safe_load(text)] if each["kind"] == kind)
    assert isinstance(found, dict)
    return found


def test_keda_follows_what_the_operator_exports_and_reads_an_outage_as_no_zero() -> None:
    scaled = shown(AUTOSCALING, "ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    (trigger,) = spec["triggers"]
    # An external metric of the average value 1 a pod: as many pods as the operator wants.
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
    metadata = trigger["metadata"]
    assert metadata["threshold"] == "1"
    assert metadata["ignoreNullValues"] == "false"
    assert all(isinstance(value, str) for value in metadata.values()), "KEDA reads strings"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] > 0
    query = metadata["query"]
    assert list(unknown(query)) == []
    # One series, whichever operator leads: KEDA fails on more.
    assert re.fullmatch(r"max\((\w+)\{pool=\"tools\"\}\)", query)
    assert {"namespace", "pool"} <= set(EXPORTED["peregrine_tool_pool_desired_replicas"].labels)


@pytest.mark.parametrize("kind", ["ToolPool", "ScaledObject"])
def test_both_are_about_the_same_deployment(kind: str) -> None:
    spec = shown(AUTOSCALING, kind)["spec"]
    where = spec["deployment"] if kind == "ToolPool" else spec["scaleTargetRef"]["name"]
    assert where == "tools"


def test_what_is_shown_has_the_bounds_of_the_pool() -> None:
    pool, scaled = (shown(AUTOSCALING, kind)["spec"] for kind in ("ToolPool", "ScaledObject"))
    assert pool["minReplicas"] == scaled["minReplicaCount"]
    assert pool["maxReplicas"] == scaled["maxReplicaCount"]
