"""Rules and dashboards use existing metrics, and every metric and alert is documented."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import reaseq.knowledge.metrics  # noqa: F401
import serving.metrics  # noqa: F401
import streams.delivery.metrics  # noqa: F401
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
COMMAND_METRICS = {"reaseq_parity_values"}  # written by `reaseq features parity --metrics`


def get_metrics() -> dict[str, str]:
    """Metric names by the names of their samples."""
    found = dict.fromkeys(COMMAND_METRICS, "")
    for metric in REGISTRY.collect():
        if metric.name.startswith("reaseq_"):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}[metric.type]
            found |= {metric.name + suffix: metric.name for suffix in suffixes}
    return found


@pytest.mark.parametrize(
    "expression",
    [*RECORDED.values(), *(alert["expr"] for alert in ALERTS.values()), *(expression for _, expression in CURVES)],
)
def test_expressions_use_existing_metrics(expression: str) -> None:
    names = set(re.findall(r"(?<![\w:])reaseq_\w+", expression))
    recorded = set(re.findall(r"\w+:reaseq_\w+:\w+|reaseq:\w+:\w+", expression))

    assert names - get_metrics().keys() == set()
    assert recorded - RECORDED.keys() == set()
    assert names or recorded or "up{" in expression


def test_every_metric_is_documented() -> None:
    docs = (DOCS / "operations.md").read_text() + (DOCS / "reasoning.md").read_text()

    assert [name for name in sorted(set(get_metrics().values())) if name and name not in docs] == []


def test_every_alert_has_an_integration_test() -> None:
    tests = (Path(__file__).parents[2] / "integration" / "test_observability.py").read_text()

    assert [name for name in ALERTS if f'"{name}"' not in tests] == []


def test_every_alert_is_documented_and_has_a_severity() -> None:
    documented = re.findall(r"^## (\w+)$", (DOCS / "alerts.md").read_text(), re.MULTILINE)

    assert documented == list(ALERTS)
    assert {alert["labels"]["severity"] for alert in ALERTS.values()} == {"page", "ticket"}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_files_are_up_to_date(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == rendered(name), "run python -m infra.grafana.dashboards"
