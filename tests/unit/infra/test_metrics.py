"""Rules and dashboards speak of metrics that there are, and every metric and every alert is explained."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import streams.contract.metrics  # noqa: F401
from infra.grafana.dashboards import DASHBOARDS, FOLDER, rendered
from infra.prometheus.server import RULES

DOCS = Path(__file__).parents[3] / "docs"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
CURVES = [
    (f"{name}: {panel.title}", expression)
    for name, panels in DASHBOARDS.items()
    for panel in panels
    for expression in panel.curves.values()
]
OF_A_COMMAND = {"reaseq_parity_values"}  # `reaseq features parity --metrics`


def registered() -> dict[str, str]:
    """By the name under which a sample is scraped, the name of its metric."""
    found = dict.fromkeys(OF_A_COMMAND, "")
    for metric in REGISTRY.collect():
        if metric.name.startswith("reaseq_"):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}[metric.type]
            found |= {metric.name + suffix: metric.name for suffix in suffixes}
    return found


@pytest.mark.parametrize(
    "expression",
    [*RECORDED.values(), *(alert["expr"] for alert in ALERTS.values()), *(expression for _, expression in CURVES)],
)
def test_every_metric_that_is_asked_for_is_there(expression: str) -> None:
    names = set(re.findall(r"(?<![\w:])reaseq_\w+", expression))
    recorded = set(re.findall(r"\w+:reaseq_\w+:\w+|reaseq:\w+:\w+", expression))

    assert names - registered().keys() == set()
    assert recorded - RECORDED.keys() == set()
    assert names or recorded or "up{" in expression


def test_every_metric_is_documented() -> None:
    told = (DOCS / "operations.md").read_text() + (DOCS / "reasoning.md").read_text()

    assert [name for name in sorted(set(registered().values())) if name and name not in told] == []


def test_of_every_alert_the_fault_is_caused_on_the_real_system() -> None:
    caused = (Path(__file__).parents[2] / "integration" / "test_observability.py").read_text()

    assert [name for name in ALERTS if f'"{name}"' not in caused] == []


def test_every_alert_is_explained_and_says_whom_to_wake() -> None:
    told = re.findall(r"^## (\w+)$", (DOCS / "alerts.md").read_text(), re.MULTILINE)

    assert told == list(ALERTS)
    assert {alert["labels"]["severity"] for alert in ALERTS.values()} == {"page", "ticket"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_dashboards_are_those_of_the_code(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == rendered(name), "run python -m infra.grafana.dashboards"
