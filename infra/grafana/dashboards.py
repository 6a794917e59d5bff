"""Grafana dashboards as code: `python -m infra.grafana.dashboards` writes them as JSON into `dashboards/`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("dashboards")
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
WIDTH, HEIGHT, COLUMNS = 12, 8, 2


@dataclass(frozen=True)
class Panel:
    """A time series panel. `curves` maps legends to PromQL expressions of one unit."""

    title: str
    unit: str
    curves: Mapping[str, str]


def _quantiles(metric: str, by: str) -> dict[str, str]:
    """Median and 99th percentile of a histogram, by a label unless it is empty."""
    return {
        f"p{percent}" + (f" {{{{{by}}}}}" if by else ""): (
            f"histogram_quantile({percent / 100}, sum by (le{', ' + by if by else ''}) (rate({metric}_bucket[5m])))"
        )
        for percent in (50, 99)
    }


STREAM = (
    Panel("Freshness: from input produced to features servable", "s", _quantiles("reaseq_freshness_seconds", "stage")),
    Panel(
        "Late share (objective: 1 %)",
        "percentunit",
        {window: f"reaseq:freshness_late:ratio_rate{window}" for window in ("5m", "1h")},
    ),
    Panel("Records processed", "ops", {"{{stage}} {{outcome}}": "stage:reaseq_records:rate5m"}),
    Panel("Lag", "short", {"{{topic}}": "sum by (topic) (reaseq_lag_records)"}),
    Panel("Time without a commit despite lag", "s", {"{{instance}} {{topic}}": "reaseq_commit_stalled_seconds"}),
    Panel("Waits", "ops", {"{{stage}} {{reason}}": "sum by (stage, reason) (rate(reaseq_waits_total[5m]))"}),
    Panel("Dead letters", "ops", {"{{stage}} {{reason}}": "sum by (stage, reason) (rate(reaseq_dead_letters_total[5m]))"}),
    Panel("Batch duration", "s", _quantiles("reaseq_batch_seconds", "stage")),
    Panel("Feature records written", "ops", {"{{stage}}": "sum by (stage) (rate(reaseq_feature_records_total[5m]))"}),
    Panel("Outcomes", "ops", {"{{stage}} {{what}}": "sum by (stage, what) (rate(reaseq_outcomes_total[5m]))"}),
    Panel(
        "Store compared with topics (sample)",
        "short",
        {"{{topic}} {{result}}": "sum by (topic, result) (increase(reaseq_reconciled_records_total[1h]))"},
    ),
    Panel("Time since the last batch", "s", {"{{instance}} {{stage}}": "time() - reaseq_last_progress_timestamp_seconds"}),
)
RANKING = (
    Panel("Rankings", "ops", {"{{fallback_level}}": "sum by (fallback_level) (rate(reaseq_rank_requests_total[5m]))"}),
    Panel("Ranking latency", "s", _quantiles("reaseq_rank_seconds", "")),
    Panel(
        "Share without fresh features or without the model", "percentunit", {"degraded": "reaseq:rank_degraded:ratio_rate5m"}
    ),
    Panel("Degradations", "ops", {"{{reason}}": "sum by (reason) (rate(reaseq_rank_degraded_total[5m]))"}),
    Panel("Rejected", "ops", {"{{reason}}": "sum by (reason) (rate(reaseq_rank_rejected_total[5m]))"}),
    Panel("Items in the item table", "short", {"{{instance}}": "reaseq_item_table_items"}),
    Panel("Item table size", "bytes", {"{{instance}}": "reaseq_item_table_bytes"}),
    Panel("Ranker reloads", "short", {"{{instance}} {{outcome}}": "reaseq_rank_reloads_total"}),
    Panel("Item records tailed", "short", {"{{instance}} {{topic}}": "reaseq_tailed_records"}),
    Panel("Served values compared with the point-in-time join", "short", {"{{result}}": "reaseq_parity_values"}),
)
REASONING = (
    Panel("Calls", "ops", {"{{agent}} {{outcome}}": "sum by (agent, outcome) (rate(reaseq_llm_calls_total[5m]))"}),
    Panel("Tokens", "ops", {"{{kind}}": "sum by (kind) (rate(reaseq_llm_tokens_total[5m]))"}),
    Panel("Call duration", "s", _quantiles("reaseq_llm_call_seconds", "agent")),
    Panel("Calls in flight", "short", {"{{instance}}": "reaseq_llm_calls_in_flight"}),
    Panel("Circuit breaker open", "bool", {"{{instance}}": "reaseq_llm_breaker_open"}),
    Panel(
        "Calls rejected by a token budget",
        "short",
        {"{{budget}}": "sum by (budget) (increase(reaseq_llm_budget_rejections_total[1h]))"},
    ),
    Panel(
        "Claims dropped", "ops", {"{{speaker}} {{reason}}": "sum by (speaker, reason) (rate(reaseq_claims_dropped_total[5m]))"}
    ),
)
DASHBOARDS = {"stream": STREAM, "ranking": RANKING, "reasoning": REASONING}


def dashboard(name: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """A dashboard in Grafana's JSON model."""
    return {
        "uid": f"reaseq-{name}",
        "title": f"ReaSeq {name}",
        "tags": ["reaseq"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": [_panel(index, panel) for index, panel in enumerate(panels)],
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, COLUMNS)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for number, (legend, expression) in enumerate(panel.curves.items())
        ],
    }


def rendered(name: str) -> str:
    """The text of a dashboard's file."""
    return json.dumps(dashboard(name, DASHBOARDS[name]), indent=1) + "\n"


def main() -> None:
    """Write all dashboards."""
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(rendered(name))


if __name__ == "__main__":
    main()
