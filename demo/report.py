"""The demo's outcome as one JSON-compatible report, which the terminal and the page show."""

import os
import platform
from collections import Counter
from typing import Any

import torch

from demo.lifecycle import Lifecycle
from demo.models import PEERS, RANKER
from demo.record import CustomerExample, percentile_ms
from evaluation.intervals import Estimate
from evaluation.judge import ALL, NEW, REPEATS, Judge
from evaluation.tally import METRICS
from features.parity import compare, read_served_features
from reaseq.records import ItemFeatures

SHOWN_HISTORY = 10
SHOWN_INFERRED = 8
HEADLINE = {
    "hr10_all": ("hr_10", ALL),
    "hr10_new": ("hr_10", NEW),
    "hr10_repeat": ("hr_10", REPEATS),
    "ndcg10_all": ("ndcg_10", ALL),
}

Report = dict[str, Any]


def build_report(lifecycle: Lifecycle, judge: Judge) -> Report:
    """Everything that was measured. Keys carry their unit; what could not be measured is None."""
    items = {record.item_id: record for page in lifecycle.system.store.scan_items() for record in page}
    return {
        "variant": lifecycle.schedule.name,
        "hardware": {"cpus": os.cpu_count(), "machine": platform.machine(), "torch_threads": torch.get_num_threads()},
        "phases_s": lifecycle.seconds,
        "total_s": round(sum(lifecycle.seconds.values()), 1),
        **_report_stream(lifecycle, items),
        "baskets": judge.baskets,
        **_report_latencies(lifecycle),
        "parity": _report_parity(lifecycle),
        **_report_headline(judge),
        "quality": _report_quality(judge),
        "freshness_by_day_ms": {
            str(day): {"p50": percentile_ms(seconds, 50), "p99": percentile_ms(seconds, 99)}
            for day, seconds in lifecycle.recorder.freshness_by_day.items()
        },
        "item_card": _build_card(lifecycle, items),
        "customer": _build_customer(lifecycle.recorder.example, items),
    }


def _report_stream(lifecycle: Lifecycle, items: dict[str, ItemFeatures]) -> Report:
    reasoners = Counter(
        record.knowledge.claims[0].reasoner for record in items.values() if record.knowledge and record.knowledge.claims
    )
    orders = lifecycle.retail.orders
    live = [order for order in orders if order.time_ms >= lifecycle.schedule.replay_ms]
    return {
        "items_onboarded_by_status": dict(Counter(record.status for record in items.values())),
        "items_reasoned_by": dict(reasoners),
        "items_listed_live": len(lifecycle.live_items),
        "events": sum(len(order.events) for order in orders),
        "events_live": sum(len(order.events) for order in live),
        "dead_letters": lifecycle.recorder.dead_letters,
    }


def _report_latencies(lifecycle: Lifecycle) -> Report:
    recorder = lifecycle.recorder
    timings = {
        "event_to_servable": recorder.freshness_s.get("history", []),
        "event_to_inferred": recorder.freshness_s.get("inference", []),
        "item_to_text": recorder.freshness_s.get("onboarding", []),
        "item_to_reasoned": recorder.freshness_s.get("reasoning", []),
        "rank": recorder.rank_s,
        "score": recorder.score_s,
    }
    return {
        f"{name}_p{percent}_ms": percentile_ms(seconds, percent) for name, seconds in timings.items() for percent in (50, 99)
    } | {"rank_candidates": int(lifecycle.system.table.snapshot.live.sum())}


def _report_parity(lifecycle: Lifecycle) -> Report:
    """How many served rows were compared with the point-in-time join, and the features that were not equal."""
    parity = compare(lifecycle.system.store, read_served_features(lifecycle.served_features_dir))
    other = Counter(result for counts in parity.results.values() for result in counts.elements() if result != "equal")
    return {"rows": parity.rows, "features_not_equal": dict(other)}


def _report_headline(judge: Judge) -> Report:
    """The ranker's figures, and those of the best peer for each."""
    headline: Report = {}
    for key, (metric, name) in HEADLINE.items():
        headline[key] = _mean(judge.tallies[RANKER][name].measure(metric))
        headline[f"best_peer_{key}"] = _mean(judge.tallies[judge.best(PEERS, name, metric)][name].measure(metric))
    return headline


def _report_quality(judge: Judge) -> list[Report]:
    """Each model on each slice. `gain` is the ranker's gain over the model."""
    rows = []
    for model, name, tally in judge.table():
        ranker = judge.tallies[RANKER][name]
        row = {"model": model, "slice": name, "targets": tally.targets}
        for metric in METRICS:
            estimate = tally.measure(metric)
            row[metric], row[f"{metric}_interval"] = _mean(estimate), _interval(estimate)
            row[f"{metric}_gain"] = _interval(None if model == RANKER else ranker.measure(metric, tally))
        row["hits_by_day"] = {str(day): counts for day, counts in tally.hits_by_day().items()}
        rows.append(row)
    return rows


def _build_card(lifecycle: Lifecycle, items: dict[str, ItemFeatures]) -> Report | None:
    """The last item listed live with an LLM's profile, or else the last with any knowledge."""
    reasoned = [items[item.item_id] for item in lifecycle.live_items if items[item.item_id].knowledge]
    profiled = [record for record in reasoned if record.knowledge and record.knowledge.profile]
    if not reasoned:
        return None
    record = (profiled or reasoned)[-1]
    knowledge = record.knowledge
    assert knowledge  # noqa: S101  for the type checker
    claims: dict[str, list[Report]] = {}
    for claim in knowledge.claims:
        claims.setdefault(claim.group, []).append(
            {"value": claim.value, "confidence": claim.confidence, "reasoner": claim.reasoner}
        )
    return {
        "item_id": record.item_id,
        "title": record.title,
        "price": record.price,
        "status": record.status,
        "product_type": knowledge.product_type,
        "profile": knowledge.profile,
        "claims": claims,
        "complements": list(knowledge.complements),
        "substitutes": list(knowledge.substitutes),
        "fingerprint": record.fingerprint,
    }


def _build_customer(example: CustomerExample | None, items: dict[str, ItemFeatures]) -> Report | None:
    if example is None:
        return None
    history, inferred = example.user.history, example.user.inferred
    bought, bought_before = set(example.order.item_ids), set(history.item_ids)

    def get_title(item_id: str) -> str:
        return items[item_id].title if item_id in items else item_id

    latest = list(zip(history.item_ids, history.times_ms, strict=True))[-SHOWN_HISTORY:]
    best_inferred = list(zip(inferred.item_ids, inferred.confidences, strict=True))[:SHOWN_INFERRED]
    return {
        "user_id": example.user.user_id,
        "time_ms": example.order.time_ms,
        "basket_lines": len(bought),
        "behavior_model": inferred.model,
        "history": [{"title": get_title(item_id), "time_ms": time_ms} for item_id, time_ms in reversed(latest)],
        "inferred": [
            {"title": get_title(item_id), "confidence": confidence, "bought": item_id in bought}
            for item_id, confidence in best_inferred
        ],
        "ranked": [
            {"title": get_title(item_id), "bought": item_id in bought, "bought_before": item_id in bought_before}
            for item_id in example.ranked
        ],
    }


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else round(estimate.mean, 4)


def _interval(estimate: Estimate | None) -> list[float] | None:
    """Low and high end of the 95% interval."""
    return None if estimate is None else [round(estimate.low, 4), round(estimate.high, 4)]
