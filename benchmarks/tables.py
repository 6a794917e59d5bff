"""`python -m benchmarks.tables`: write what benchmarks/results holds into the pages of docs, as tables."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.sizing import SHOPS, Measured, measured_by, needs

ROOT = Path(__file__).parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
Found = dict[str, Any]


def main() -> None:
    """Replace what stands between the pages' marks with what was measured."""
    tables = {}
    for name, found in _read("evaluation").items():
        for part, write in (("scores", _scores), ("gains", _gains), ("seen", _by_times_seen), ("ages", _ages)):
            tables[f"{name} {part}"] = write(found)
    _write(DOCS / "evaluation.md", tables)
    if ranking := _read("ranking"):
        _write(DOCS / "benchmarks.md", {"ranking": _ranking(ranking)})
    if delivery := _read("delivery"):
        _write(DOCS / "benchmarks.md", {"delivery": _delivery(delivery)})
    if console := _read("console"):
        _write(DOCS / "benchmarks.md", {"console": _console(console)})
    if ranking and delivery:
        _write(DOCS / "sizing.md", {"sizing": _sizing(measured_by(delivery, ranking))})
    if faults := _read("faults"):
        _write(DOCS / "failures.md", {"faults": _faults(faults)})


def _read(name: str) -> Found:
    file = RESULTS / f"{name}.json"
    found: Found = json.loads(file.read_text()) if file.exists() else {}
    return found


def _write(page: Path, tables: dict[str, str]) -> None:
    text = page.read_text()
    for name, table in tables.items():
        block = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- end -->", re.DOTALL)
        text = block.sub(lambda _, name=name, table=table: f"<!-- {name} -->\n{table}\n<!-- end -->", text)  # type: ignore[misc]
    page.write_text(text)


def _faults(found: Found) -> str:
    """One row for each fault of the suite."""
    counts = ("runs", "records", "dead_letters", "lost", "doubled", "stale_over_fresh", "different")
    return _table(
        ["fault", *(count.replace("_", " ") for count in counts), "until nothing is left to do, p50 / max s"],
        [
            [of["fault"], *(f"{of[count]:,}" for count in counts), f"{of['recovered_p50_s']:.0f} / {of['recovered_max_s']:.0f}"]
            for of in found["faults"]
        ],
    )


def _sizing(measured: Measured) -> str:
    """A column a shop."""
    sized = [(shop, needs(shop, measured)) for shop in SHOPS]
    rows = [
        ["users", *(f"{shop.users:,}" for shop, _ in sized)],
        ["events/s, at the peak", *(f"{shop.peak_events_per_s:,}" for shop, _ in sized)],
        ["new items a day", *(f"{shop.new_items_per_day:,}" for shop, _ in sized)],
        ["rankings/s, at the peak", *(f"{shop.peak_rankings_per_s:,}" for shop, _ in sized)],
        ["**partitions** of each topic", *(f"{of.partitions:,}" for _, of in sized)],
        ["**workers**, a core each", *(f"{of.workers:,}" for _, of in sized)],
        ["GiB of each worker", *(f"{of.worker_gib:,.0f}" for _, of in sized)],
        ["**Redis**, GiB", *(f"{of.redis_gib:,.0f}" for _, of in sized)],
        ["Redis instances of 256 GiB", *(f"{of.redis_nodes:,}" for _, of in sized)],
        ["**item table**, GiB", *(f"{of.table_gib:,.1f}" for _, of in sized)],
        ["fits half a GPU of 80 GiB", *("yes" if of.table_fits else "**no**" for _, of in sized)],
        ["**ranking**, cores (500 candidates each)", *(f"{of.ranker_cores:,}" for _, of in sized)],
        ["**reasoning**, GPUs (assumed)", *(f"{of.reasoning_gpus:,}" for _, of in sized)],
        ["**USD a month** (assumed prices)", *(f"{of.usd_per_month:,.0f}" for _, of in sized)],
    ]
    return _table(["items", *(f"{shop.items:,}" for shop, _ in sized)], rows)


def _console(found: Found) -> str:
    """A row a side."""
    return _table(
        ["while", "looks/s", "ranking, p50 / p99 ms", "over alone, p50 / p99", "answered by step"],
        [
            [
                of["side"].replace("_", " × "),
                f"{of['looks_per_s']:.1f}",
                f"{of['rank_p50_ms']} / {of['rank_p99_ms']}",
                f"{of['over_alone_p50']} / {of['over_alone_p99']}",
                ", ".join(f"{step} {answers}" for step, answers in of["steps"].items()),
            ]
            for of in found["sides"]
        ],
    )


def _delivery(found: Found) -> str:
    """The sides on both workloads, then freshness by rate."""
    sides = {
        "faust": "Faust",
        "faust_two_workers": "two workers on Faust",
        "in_process": "in process",
        "bare_loop": "bare loop",
    }
    costs = _table(
        ["events", "side", "events/s of a core", "of the bare loop", "events/s"],
        [
            [
                workload.replace("_", " "),
                label,
                f"{found[workload][side]['events_per_s_per_core']:,}",
                f"{found[workload][side]['events_per_s_per_core'] / found[workload]['bare_loop']['events_per_s_per_core']:.2f}",
                f"{found[workload][side]['events_per_s']:,}",
            ]
            for workload in ("as_logged", "interleaved")
            for side, label in sides.items()
        ],
    )
    rates = _table(
        ["events/s", "fresh after, p50 / p99 ms", "kept up"],
        [
            [
                f"{of['asked_events_per_s']:,}",
                f"{of['freshness_p50_ms']:.0f} / {of['freshness_p99_ms']:.0f}",
                "yes" if of["sustained"] else f"no, {of['caught_up_after_s']:.0f} s behind after {found['rate_for_s']:.0f} s",
            ]
            for of in found["freshness"]
        ],
    )
    return f"{costs}\n\n{rates}"


def _ranking(found: Found) -> str:
    """The grid of callers and histories, then long histories and the item table."""
    sides = ("rank", "forward", "raw_read", "feast_per_candidate")
    grid = _table(
        ["history", "callers", *(f"{side.replace('_', ' ')}, p50 / p99 ms" for side in sides), "Feast / rank", "rank / both"],
        [
            [
                str(of["history"]),
                str(of["callers"]),
                *(f"{of[f'{side}_p50_ms']:,.1f} / {of[f'{side}_p99_ms']:,.1f}" for side in sides),
                f"{of['feast_over_rank_p50']} / {of['feast_over_rank_p99']}",
                f"{of['rank_over_forward_and_read_p50']} / {of['rank_over_forward_and_read_p99']}",
            ]
            for of in found["by_history_and_callers"]
        ],
    )
    long = _table(
        ["history", "behaviors searched", "forward pass, p50 ms"],
        [[f"{of['history']:,}", str(of["search"] or "all"), str(of["forward_p50_ms"])] for of in found["long_histories"]],
    )
    table = _table(
        ["items in the table", "update of 256 records, p50 / p99 ms", "tensors, MiB"],
        [
            [f"{of['items']:,}", f"{of['update_p50_ms']} / {of['update_p99_ms']}", str(of["tensors_mib"])]
            for of in found["item_table"]
        ],
    )
    return f"{grid}\n\nThe bare forward pass on long histories, and the item table under updates:\n\n{long}\n\n{table}"


def _scores(found: Found) -> str:
    """A row a variant: GAUC on every kind of list, and further figures on the first and the hardest."""
    part, again = _first(found), found["parts"].get("again")
    kinds = _kinds(part)
    hard = "pop" if "pop" in kinds else kinds[0]
    columns = [
        *(f"GAUC {kind}" for kind in kinds),
        f"HR@5 {hard}",
        f"NDCG@10 {hard}",
        f"AUC {kinds[0]}",
        f"log loss {kinds[0]}",
    ]
    rows = []
    for name, of in part["variants"].items():
        if " old" in name:
            continue
        cells = [f"{of[kind]['gauc']['mean']:.3f}" for kind in kinds]
        cells += [f"{of[hard]['hr_5']['mean']:.3f}", f"{of[hard]['ndcg_10']['mean']:.3f}"]
        cells += [f"{of[kinds[0]]['auc']:.3f}", f"{of[kinds[0]]['logloss']['mean']:.4f}"]
        if again:
            cells.append(f"{again['variants'][name]['again']['gauc']['mean']:.3f}")
        rows.append([name, *cells])
    return _table(["told", *columns, *(["GAUC again"] if again else [])], rows)


def _gains(found: Found) -> str:
    """A row a comparison: points of GAUC with their interval, and the same on items that training never saw."""
    part = _first(found)
    kinds = _kinds(part)
    rows = []
    for name, of in part["gains"].items():
        if " old" in name:
            continue
        unseen_too = [of[kind]["gauc_by_times_seen"] for kind in kinds[1:] or kinds]
        cells = [_points(of[kind]["gauc"]) for kind in kinds]
        rows.append([name, *cells, *(_points(buckets["0"]) for buckets in unseen_too if "0" in buckets)])
    unseen = [f"{kind}, never seen" for kind in kinds[1:] or kinds]
    return _table(["points gained", *kinds, *unseen], rows)


def _by_times_seen(found: Found) -> str:
    """A row a variant: GAUC on the hardest list by how often training saw the target."""
    part = _first(found)
    hard = "mat" if "mat" in _kinds(part) else _kinds(part)[0]
    buckets = [bucket for bucket, count in part["targets_by_times_seen"].items() if count]
    rows = [
        [name, *(f"{of[hard]['gauc_by_times_seen'][bucket]['mean']:.3f}" for bucket in buckets)]
        for name, of in part["variants"].items()
        if " old" not in name
    ]
    counted = [f"{bucket} ({part['targets_by_times_seen'][bucket]:,} targets)" for bucket in buckets]
    return _table([f"GAUC {hard}, by times seen", *counted], rows)


def _ages(found: Found) -> str:
    """A row an age of the features: GAUC, and what was lost since they were fresh."""
    part = _first(found)
    kinds = _kinds(part)
    rows = []
    for name, of in part["variants"].items():
        if " old" in name:
            age = name.split(", ")[1].removesuffix(" old")
            lost = next((gain for pair, gain in part["gains"].items() if pair.startswith(f"{name} over ")), None)
            cells = [f"{of[kind]['gauc']['mean']:.4f}" for kind in kinds]
            if lost:
                cells = [f"{cell} ({_points(lost[kind]['gauc'])})" for cell, kind in zip(cells, kinds, strict=True)]
            rows.append([age, *cells])
    return _table(["features are old by", *kinds], rows) if rows else ""


def _first(found: Found) -> Found:
    part: Found = next(iter(found["parts"].values()))
    return part


def _kinds(part: Found) -> list[str]:
    return list(next(iter(part["variants"].values())))


def _points(of: dict[str, float]) -> str:
    """Points with their 95 % interval; bold where it leaves out nothing."""
    mean, low, high = (100 * of[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.2f} [{low:.2f}, {high:.2f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
