"""The alerts for the Prometheus Operator, made from those of the plain Prometheus.

python -m tests.manifests.alerts
"""

from pathlib import Path
from typing import Any

import yaml

from tests.manifests.rendered import K8S

RULES = K8S / "components" / "prometheus" / "rules.yml"
OBJECT = K8S / "components" / "prometheus-operator" / "rules.yaml"
MADE = "# Made by `python -m tests.manifests.alerts` from ../prometheus/rules.yml; edit that.\n"


def groups() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def made() -> str:
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "peregrine"},
        "spec": {"groups": groups()},
    }
    return MADE + yaml.safe_dump(rule, sort_keys=False, width=120)


def write(path: Path = OBJECT) -> None:
    path.write_text(made())


if __name__ == "__main__":
    write()
