"""What a dashboard would show of a running system."""

from collections.abc import Iterable

from infra import process
from infra.grafana.dashboards import Panel
from infra.prometheus.server import query


def without_data(prometheus: process.Process, panels: Iterable[Panel]) -> list[tuple[str, str]]:
    """The curves, by the title of their panel, that have nothing to show."""
    curves = [(panel.title, expression) for panel in panels for expression in panel.curves.values()]
    return [(title, expression) for title, expression in curves if not query(prometheus, expression)]
