"""Alerts and dashboards ask for what is exported, and every alert says what to do."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract import metric_rules
from tests.contract.repository import ROOT, product
from tests.manifests import alerts, dashboards
from tests.manifests.rendered import needs_kubectl, text, workloads

EXPORTED = {metric.name: metric for metric in metric_rules.declared(product())}
# What Prometheus itself adds to every series, or a rule makes.
GIVEN = {"le", "instance", "job", "service", "namespace", "pod"}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def unknown(query: str) -> Iterator[str]:
    """Metrics that nobody exports, and labels that no metric of the query has."""
    labels = set(GIVEN)
    for name in re.findall(r"\b(?:ai|peregrine)_[a-z0-9_]+", query):
        found = [
            base
            for end in ("", "_bucket", "_sum", "_count")
            if name.endswith(end) and (base := name.removesuffix(end)) in EXPORTED
        ]
        if not found:
            yield name
        for base in found:
            labels |= set(EXPORTED[base].labels)
            if name.endswith("_bucket") and EXPORTED[base].kind.lower() != "histogram":
                yield name
    used = {
        each.strip()
        for group in re.findall(r"\bby \(([^)]*)\)", query)
        for each in group.split(",")
    } | set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query))
    yield from sorted(used - labels)


@pytest.mark.parametrize("rule", alerts.rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_is_exported_and_has_a_runbook(rule: dict[str, str]) -> None:
    assert list(unknown(rule["expr"])) == []
    assert rule["labels"]["severity"] in ("critical", "warning")  # type: ignore[index]
    assert f"`{rule['alert']}`" in OPERATIONS
    shown = str(rule["annotations"])
    kept = {*GIVEN, *re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"])))}
    assert set(re.findall(r"\$labels\.(\w+)", shown)) <= kept


@pytest.mark.parametrize("query", dashboards.queries())
def test_a_panel_asks_for_what_is_exported(query: str) -> None:
    assert list(unknown(query)) == []


def test_a_query_for_what_nobody_exports_is_found() -> None:
    assert list(unknown("rate(peregrine_dreams_total[5m])")) == ["peregrine_dreams_total"]
    assert list(unknown("peregrine_runs_live_bucket")) == ["peregrine_runs_live_bucket"]
    assert list(unknown("sum by (colour) (peregrine_runs_live)")) == ["colour"]
    assert list(unknown('peregrine_tool_slots{size="1"}')) == ["size"]


def test_runbooks_are_for_alerts_that_exist() -> None:
    named = set(re.findall(r"^\| `(Peregrine\w+)`", OPERATIONS, re.MULTILINE))
    assert named == {rule["alert"] for rule in alerts.rules()}


def test_what_is_made_is_up_to_date() -> None:
    assert alerts.OBJECT.read_text() == alerts.made(), "python -m tests.manifests.alerts"
    for name in dashboards.DASHBOARDS:
        made = (dashboards.PLACE / name).read_text(encoding="utf-8")
        assert made == dashboards.made(name), "python -m tests.manifests.dashboards"


@needs_kubectl
def test_the_pod_monitor_finds_every_pod_with_metrics() -> None:
    (monitor,) = (
        each
        for each in yaml.safe_load_all(text("components/prometheus-operator"))
        if each["kind"] == "PodMonitor"
    )
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    scraped = [each for each in workloads("prod") if "metrics" in each.ports]
    assert endpoint["port"] == "metrics"
    assert len(scraped) >= 7
    assert all(wanted <= each.labels.items() for each in scraped)


TOOL = shutil.which("promtool")


@pytest.mark.skipif(TOOL is None, reason="there is no promtool here")
def test_alerts_fire_when_they_should_and_not_before() -> None:
    assert TOOL is not None
    tests = Path(__file__).parent / "rules_test.yml"
    done = subprocess.run(
        [TOOL, "test", "rules", str(tests)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
