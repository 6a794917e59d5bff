"""`python -m benchmarks.tables`: write the results in benchmarks/results as tables into the pages in docs."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.sizing import SHOPS, Measured, estimate_needs, read_measured
from evaluation import judge
from evaluation.candidate_sets import POPULARITY_MATCHED, POPULARITY_SAMPLED, REPEATS
from evaluation.judge import ALL, NEW

ROOT = Path(__file__).parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
KIND_NAMES = {POPULARITY_SAMPLED: "popularity-sampled", POPULARITY_MATCHED: "popularity-matched"}
GAUC, GAUC_BY_IMPRESSION = "GAUC grouped by basket", "GAUC grouped by impression"

BASKET_SLICES = {ALL: "all", NEW: "new to customer", judge.REPEATS: "repeats"}
BASKET_COLUMNS = {"hr_10": BASKET_SLICES, "ndcg_10": (ALL, NEW), "gauc": BASKET_SLICES}

Results = dict[str, Any]


def main() -> None:
    """Replace the tables between the marker comments in the pages."""
    tables = {}
    for name, results in _read("evaluation").items():
        gauc = GAUC_BY_IMPRESSION if name == "mind" else GAUC
        for part, render in (("scores", _scores), ("gains", _gains), ("seen", _by_times_seen), ("ages", _ages)):
            tables[f"{name} {part}"] = render(results, gauc)
    if leave_one_out := _read("leave_one_out"):
        tables["leave one out"] = _leave_one_out(leave_one_out)
    if baskets := _read("baskets"):
        tables["baskets"] = _baskets(baskets)
    _write(DOCS / "evaluation.md", tables)
    if ranking := _read("ranking"):
        _write(DOCS / "benchmarks.md", {"ranking": _ranking(ranking)})
    if delivery := _read("delivery"):
        _write(DOCS / "benchmarks.md", {"delivery": _delivery(delivery)})
    if console := _read("console"):
        _write(DOCS / "benchmarks.md", {"console": _console(console)})
    if ranking and delivery:
        _write(DOCS / "sizing.md", {"sizing": _sizing(read_measured(delivery, ranking))})
    if faults := _read("faults"):
        _write(DOCS / "failures.md", {"faults": _faults(faults)})


def _read(name: str) -> Results:
    file = RESULTS / f"{name}.json"
    results: Results = json.loads(file.read_text()) if file.exists() else {}
    return results


def _write(page: Path, tables: dict[str, str]) -> None:
    text = page.read_text()
    for name, table in tables.items():
        block = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- end -->", re.DOTALL)
        text = block.sub(lambda _, name=name, table=table: f"<!-- {name} -->\n{table}\n<!-- end -->", text)  # type: ignore[misc]
    page.write_text(text)


def _baskets(results: Results) -> str:
    """A row for each model, the best first, and the ranker's gains over the best peer of each column."""
    columns = [(metric, part) for metric, parts in BASKET_COLUMNS.items() for part in parts]
    models = sorted(results["models"].items(), key=lambda entry: -entry[1][ALL]["hr_10"]["mean"])
    rows = [[name, *(_format_estimate(by_slice[part][metric]) for metric, part in columns)] for name, by_slice in models]
    gains = [results["gains_over_best_peer"][part][metric] for metric, part in columns]
    rows.append(["gain over the best peer", *(f"{gain['low']:+.3f} to {gain['high']:+.3f}" for gain in gains)])
    names = {"hr_10": "HR@10", "ndcg_10": "NDCG@10", "gauc": "GAUC"}
    return _table(["", *(f"{names[metric]} {BASKET_SLICES[part]}" for metric, part in columns)], rows)


def _format_estimate(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _leave_one_out(results: Results) -> str:
    """Entries and published models, the best first, and after them those that know the date."""
    rows = []
    for name, entry in results["entries"].items():
        kept, left_out = entry["seen_kept"], entry["seen_left_out"]
        figures = [
            f"{kept['recall_10']['mean']:.4f} [{kept['recall_10']['low']:.4f}, {kept['recall_10']['high']:.4f}]",
            f"{kept['ndcg_10']['mean']:.4f} [{kept['ndcg_10']['low']:.4f}, {kept['ndcg_10']['high']:.4f}]",
            *(f"{left_out[metric]['mean']:.4f}" for metric in ("recall_10", "ndcg_10")),
        ]
        rows.append((entry["told_time"], -kept["recall_10"]["mean"], [f"**{name}**", *figures, "measured"]))
    for figure in results["published"]:
        cells = [figure["model"], f"{figure['recall_10']:.4f}", f"{figure['ndcg_10']:.4f}", "–", "–", figure["source"]]
        rows.append((False, -figure["recall_10"], cells))
    header = [
        "model",
        "recall@10",
        "NDCG@10",
        "recall@10, seen left out",
        "NDCG@10, seen left out",
        "source",
    ]
    return _table(header, [cells for *_, cells in sorted(rows, key=lambda row: row[:2])])


def _faults(results: Results) -> str:
    """A row for each fault of the suite."""
    counts = ("runs", "records", "dead_letters", "lost", "doubled", "stale_over_fresh", "different")
    return _table(
        ["fault", *(count.replace("_", " ") for count in counts), "recovery, p50 / max s"],
        [
            [
                fault["fault"],
                *(f"{fault[count]:,}" for count in counts),
                f"{fault['recovered_p50_s']:.0f} / {fault['recovered_max_s']:.0f}",
            ]
            for fault in results["faults"]
        ],
    )


def _sizing(measured: Measured) -> str:
    """A column for each shop."""
    needs = [estimate_needs(shop, measured) for shop in SHOPS]
    rows = [
        ["users", *(f"{shop.users:,}" for shop in SHOPS)],
        ["peak events/s", *(f"{shop.peak_events_per_s:,}" for shop in SHOPS)],
        ["new items per day", *(f"{shop.new_items_per_day:,}" for shop in SHOPS)],
        ["peak rankings/s", *(f"{shop.peak_rankings_per_s:,}" for shop in SHOPS)],
        ["**partitions** per topic", *(f"{need.partitions:,}" for need in needs)],
        ["**workers**, one core each", *(f"{need.workers:,}" for need in needs)],
        ["GiB per worker", *(f"{need.worker_gib:,.0f}" for need in needs)],
        ["**Redis**, GiB", *(f"{need.redis_gib:,.0f}" for need in needs)],
        ["Redis instances of 256 GiB", *(f"{need.redis_nodes:,}" for need in needs)],
        ["**item table**, GiB", *(f"{need.table_gib:,.1f}" for need in needs)],
        ["fits in half of an 80 GiB GPU", *("yes" if need.table_fits else "**no**" for need in needs)],
        ["**ranking**, cores (500 candidates each)", *(f"{need.ranker_cores:,}" for need in needs)],
        ["**reasoning**, GPUs (assumed)", *(f"{need.reasoning_gpus:,}" for need in needs)],
        ["**USD per month** (assumed prices)", *(f"{need.usd_per_month:,.0f}" for need in needs)],
    ]
    return _table(["items", *(f"{shop.items:,}" for shop in SHOPS)], rows)


def _console(results: Results) -> str:
    """A row for each load."""
    return _table(
        ["load", "visits/s", "ranking, p50 / p99 ms", "over alone, p50 / p99", "responses by fallback level"],
        [
            [
                side["side"].replace("_", " × "),
                f"{side['visits_per_s']:.1f}",
                f"{side['rank_p50_ms']} / {side['rank_p99_ms']}",
                f"{side['over_alone_p50']} / {side['over_alone_p99']}",
                ", ".join(f"{level} {answers}" for level, answers in side["fallback_levels"].items()),
            ]
            for side in results["sides"]
        ],
    )


def _delivery(results: Results) -> str:
    """The sides on both workloads, then freshness by rate."""
    sides = {
        "faust": "Faust",
        "faust_two_workers": "two workers on Faust",
        "in_process": "in process",
        "hand_written": "written by hand",
        "bare_loop": "bare loop",
        "quix": "Quix Streams",
        "bytewax": "Bytewax",
    }
    rows = []
    for workload in ("as_logged", "interleaved"):
        measured = results[workload]
        by_hand = measured["hand_written"]["events_per_s_per_core"]
        for side, label in sides.items():
            per_core = measured[side]["events_per_s_per_core"]
            rows.append(
                [
                    workload.replace("_", " "),
                    label,
                    f"{per_core:,}",
                    f"{1e6 / per_core:.1f}",
                    f"{per_core / by_hand:.2f}",
                    f"{measured[side]['events_per_s']:,}",
                ]
            )
    columns = ["events", "side", "events/s per core", "CPU µs per event", "ratio to written by hand", "events/s"]
    costs = _table(columns, rows)
    rates = _table(
        ["events/s", "freshness, p50 / p99 ms", "kept up"],
        [
            [
                f"{rate['offered_events_per_s']:,}",
                f"{rate['freshness_p50_ms']:.0f} / {rate['freshness_p99_ms']:.0f}",
                "yes"
                if rate["sustained"]
                else f"no, {rate['caught_up_after_s']:.0f} s behind after {results['rate_for_s']:.0f} s",
            ]
            for rate in results["freshness"]
        ],
    )
    return f"{costs}\n\n{rates}"


def _ranking(results: Results) -> str:
    """The lone caller, the grid of callers and histories, then long histories and the item table."""
    sides = ("rank", "forward", "raw_read", "feast_per_candidate")
    grid = _table(
        [
            "history",
            "callers",
            *(f"{side.replace('_', ' ')}, p50 / p99 ms" for side in sides),
            "Feast / rank",
            "rank / (forward + raw read)",
        ],
        [
            [
                str(row["history"]),
                str(row["callers"]),
                *(f"{row[f'{side}_p50_ms']:,.1f} / {row[f'{side}_p99_ms']:,.1f}" for side in sides),
                f"{row['feast_over_rank_p50']} / {row['feast_over_rank_p99']}",
                f"{row['rank_over_forward_and_read_p50']} / {row['rank_over_forward_and_read_p99']}",
            ]
            for row in results["by_history_and_callers"]
        ],
    )
    long = _table(
        ["history", "behaviors searched", "forward pass, p50 ms"],
        [[f"{row['history']:,}", str(row["search"] or "all"), str(row["forward_p50_ms"])] for row in results["long_histories"]],
    )
    table = _table(
        ["items in the table", "update of 256 records, p50 / p99 ms", "tensors, MiB"],
        [
            [f"{row['items']:,}", f"{row['update_p50_ms']} / {row['update_p99_ms']}", str(row["tensors_mib"])]
            for row in results["item_table"]
        ],
    )
    alone = _lone_caller(results["lone_caller"])
    rest = "The bare forward pass on long histories, and the item table under updates:"
    return "\n\n".join([alone, grid, rest, long, table])


def _lone_caller(rows: list[Results]) -> str:
    """A column for each length of the history."""
    sides = {
        "rank": "in process",
        "http": "over HTTP",
        "forward": "bare forward pass",
        "raw_read": "raw read",
        "rank_eager": "in process, eager",
        "http_eager": "over HTTP, eager",
        "forward_eager": "bare forward pass, eager",
    }
    ratios = {"rank_over_forward_and_read": "in process / (forward + raw read)", "rank_over_eager": "in process / eager"}
    lines = [[title, *(f"{row[f'{name}_p50_ms']} / {row[f'{name}_p99_ms']}" for row in rows)] for name, title in sides.items()]
    lines += [[title, *(f"{row[f'{name}_p50']} / {row[f'{name}_p99']}" for row in rows)] for name, title in ratios.items()]
    lines.append(
        ["over HTTP − in process", *(f"{row['http_over_rank_p50_ms']} / {row['http_over_rank_p99_ms']}" for row in rows)]
    )
    return _table(["one caller, p50 / p99 ms", *(f"{row['history']} behaviors" for row in rows)], lines)


def _scores(results: Results, gauc: str) -> str:
    """A row for each variant: GAUC on every kind of negatives, further metrics on the first and the hardest kind."""
    split, repeats = _first_split(results), results["splits"].get("repeats")
    kinds = _kinds(split)
    first, hard = kinds[0], POPULARITY_SAMPLED if POPULARITY_SAMPLED in kinds else kinds[0]
    columns = [
        *(f"GAUC {_name(kind)}" for kind in kinds),
        *(f"{metric} {_name(hard)}" for metric in ("HR@5", "NDCG@10")),
        *(f"{metric} {_name(first)}" for metric in ("AUC", "log loss")),
    ]
    rows = []
    for name, figures in _fresh(split["variants"]).items():
        cells = [f"{figures[kind]['gauc']['mean']:.3f}" for kind in kinds]
        cells += [f"{figures[hard]['hr_5']['mean']:.3f}", f"{figures[hard]['ndcg_10']['mean']:.3f}"]
        cells += [f"{figures[first]['auc']:.3f}", f"{figures[first]['log_loss']['mean']:.4f}"]
        if repeats:
            cells.append(f"{repeats['variants'][name][REPEATS]['gauc']['mean']:.3f}")
        rows.append([name, *cells])
    return _table([f"features ({gauc})", *columns, *([f"GAUC {REPEATS}"] if repeats else [])], rows)


def _gains(results: Results, gauc: str) -> str:
    """A row for each comparison: points of GAUC with their interval, and the same on items that training never saw."""
    split = _first_split(results)
    kinds = _kinds(split)
    unseen_kinds = kinds[1:] or kinds
    rows = []
    for name, figures in _fresh(split["gains"]).items():
        cells = [_points(figures[kind]["gauc"]) for kind in kinds]
        unseen = [figures[kind]["gauc_by_times_seen"] for kind in unseen_kinds]
        rows.append([name, *cells, *(_points(buckets["0"]) for buckets in unseen if "0" in buckets)])
    columns = [*map(_name, kinds), *(f"{_name(kind)}, never seen" for kind in unseen_kinds)]
    return _table([f"points gained ({gauc})", *columns], rows)


def _by_times_seen(results: Results, gauc: str) -> str:
    """A row for each variant: GAUC on the hardest kind by how often training saw the target."""
    split = _first_split(results)
    hard = POPULARITY_MATCHED if POPULARITY_MATCHED in _kinds(split) else _kinds(split)[0]
    counts = {bucket: count for bucket, count in split["targets_by_times_seen"].items() if count}
    rows = [
        [name, *(f"{figures[hard]['gauc_by_times_seen'][bucket]['mean']:.3f}" for bucket in counts)]
        for name, figures in _fresh(split["variants"]).items()
    ]
    columns = [f"{bucket} ({count:,} targets)" for bucket, count in counts.items()]
    return _table([f"{gauc}, {_name(hard)}, by times seen", *columns], rows)


def _ages(results: Results, gauc: str) -> str:
    """A row for each age of the features: GAUC, and the change since they were fresh."""
    split = _first_split(results)
    kinds = _kinds(split)
    rows = []
    for name, figures in split["variants"].items():
        if _is_aged(name):
            age = name.split(", ")[1].removesuffix(" old")
            change = next((gain for pair, gain in split["gains"].items() if pair.startswith(f"{name} over ")), None)
            cells = [f"{figures[kind]['gauc']['mean']:.4f}" for kind in kinds]
            if change:
                cells = [f"{cell} ({_points(change[kind]['gauc'])})" for cell, kind in zip(cells, kinds, strict=True)]
            rows.append([age, *cells])
    return _table([f"age of the features ({gauc})", *map(_name, kinds)], rows) if rows else ""


def _first_split(results: Results) -> Results:
    split: Results = next(iter(results["splits"].values()))
    return split


def _kinds(split: Results) -> list[str]:
    return list(next(iter(split["variants"].values())))


def _name(kind: str) -> str:
    return KIND_NAMES.get(kind, kind)


def _fresh(by_name: Results) -> Results:
    """The entries of variants whose features are not aged."""
    return {name: figures for name, figures in by_name.items() if not _is_aged(name)}


def _is_aged(name: str) -> bool:
    return " old" in name


def _points(estimate: dict[str, float]) -> str:
    """Points with their 95% interval; bold if it excludes zero."""
    mean, low, high = (100 * estimate[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.2f} [{low:.2f}, {high:.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
