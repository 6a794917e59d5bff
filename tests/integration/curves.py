"""Checks that dashboards have data."""

import time
from collections.abc import Iterable

from infra import process
from infra.grafana.dashboards import Panel
from infra.prometheus.server import query

TIMEOUT_S = 60.0


def wait_for_data(prometheus: process.Process, panels: Iterable[Panel]) -> None:
    """Wait until every curve has a series; a rate needs two scrapes."""
    curves = [(panel.title, expression) for panel in panels for expression in panel.curves.values()]
    deadline = time.monotonic() + TIMEOUT_S
    while empty := [(title, expression) for title, expression in curves if not query(prometheus, expression)]:
        assert time.monotonic() < deadline, empty
        time.sleep(0.5)
