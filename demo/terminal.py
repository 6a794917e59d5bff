"""Prints the report on a terminal."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.models import PEERS
from demo.report import Report
from evaluation.judge import ALL, ALL_UNSEEN, NEW, NEW_UNSEEN, REPEATS
from reaseq.plain_text import plain

SLICE_NAMES = {ALL: "all", NEW: "new to customer", REPEATS: "repeats", ALL_UNSEEN: "unseen", NEW_UNSEEN: "new, unseen"}
MEASURES = {
    "hr_10": "HR@10",
    "ndcg_10": "NDCG@10, mean over baskets",
    "gauc": "GAUC, grouped by basket",
    "gauc_matched": "matched GAUC: among items with similar sales in the last 30 days",
}
GAIN_LABEL = "ranker’s gain over the best peer, 95% interval"


def show(report: Report, console: Console) -> None:
    """Print the metrics, the knowledge card and the example customer's ranking, on a console that interprets no markup."""
    console.print(_build_overview(report))
    console.print(f"\nranking quality over {report['baskets']:,} baskets (numbers of targets below the slices)")
    for measure in MEASURES:
        console.print(_build_quality(report, measure))
    console.print(
        "Unseen: items that are not in the training data; compare models on them by matched GAUC. "
        "An item's first sale is not judged, because the data lists the item with that sale.\n",
        style="dim",
    )
    if report["item_card"]:
        _show_card(report["item_card"], console)
    if report["customer"]:
        _show_customer(report["customer"], console)


def _build_overview(report: Report) -> Table:
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(report["items_onboarded_by_status"].items()))
    reasoners = ", ".join(f"{count} {name}" for name, count in sorted(report["items_reasoned_by"].items()))
    table = _build_list("stream")
    rows = [
        ("items by status", f"{statuses}; {report['items_listed_live']} listed during the live replay"),
        ("items by reasoner", reasoners or "none"),
        ("events", f"{report['events']:,}, {report['events_live']:,} of them live"),
        ("dead letters", str(report["dead_letters"])),
        ("event → servable history", _format_latency(report, "event_to_servable")),
        ("event → servable inferred behaviors", _format_latency(report, "event_to_inferred")),
        ("item → servable by text", _format_latency(report, "item_to_text")),
        ("item → servable with knowledge", _format_latency(report, "item_to_reasoned")),
        (f"rank {report['rank_candidates']:,} products, with feature read", _format_latency(report, "rank")),
        ("served rows vs. point-in-time join", _format_parity(report["parity"])),
        ("time", f"{report['total_s']:.0f} s on {report['hardware']['cpus']} CPUs"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _format_parity(parity: Report) -> str:
    others = ", ".join(f"{count} features {result}" for result, count in parity["features_not_equal"].items())
    return f"{parity['rows']} compared, {others or 'all features equal'}"


def _build_quality(report: Report, measure: str) -> Table:
    """One metric: a row for each model, a column for each slice."""
    table = Table(title=MEASURES[measure], title_justify="left")
    table.add_column("model")
    targets = {row["slice"]: row["targets"] for row in report["quality"]}
    for name, title in SLICE_NAMES.items():
        table.add_column(f"{title}\n{targets.get(name, 0):,}", justify="right", no_wrap=True)
    for model in dict.fromkeys(row["model"] for row in report["quality"]):
        by_slice = {row["slice"]: row[measure] for row in report["quality"] if row["model"] == model}
        values = [by_slice[name] for name in SLICE_NAMES]
        table.add_row(model, *("–" if value is None else f"{value:.3f}" for value in values))
    table.add_section()
    table.add_row(GAIN_LABEL, *("\n".join(format_gain(report, name, measure)) for name in SLICE_NAMES))
    return table


def format_gain(report: Report, slice_name: str, measure: str) -> tuple[str, ...]:
    """Both ends of the 95% interval of the ranker's gain over the peer that is best on a slice."""
    rows = [row for row in report["quality"] if row["slice"] == slice_name and row["model"] in PEERS]
    measured = [row for row in rows if row[measure] is not None]
    if not measured:
        return ("–",)
    return tuple(f"{end:+.3f}" for end in max(measured, key=lambda row: row[measure])[f"{measure}_gain"])


def _format_latency(report: Report, name: str) -> str:
    p50, p99 = report[f"{name}_p50_ms"], report[f"{name}_p99_ms"]
    return "not measured" if p50 is None or p99 is None else f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def _show_card(card: Report, console: Console) -> None:
    table = _build_list(f"knowledge card: {card['title']} ({card['item_id']})")
    price = "unknown" if card["price"] is None else f"£{card['price']:.2f}"
    table.add_row("status, price", f"{card['status']}, {price}")
    if card["profile"]:
        table.add_row("profile", plain(card["profile"]))
    for group, claims in card["claims"].items():
        values = ", ".join(f"{claim['value']} ({claim['confidence']:.2f})" for claim in claims)
        table.add_row(plain(group), Text.assemble(plain(values), " ", (plain(claims[0]["reasoner"]), "dim")))
    for name in ("complements", "substitutes"):
        if card[name]:
            table.add_row(name, plain(", ".join(card[name])))
    table.add_row("fingerprint", plain(card["fingerprint"]))
    console.print(table)


def _show_customer(customer: Report, console: Console) -> None:
    name = Text(f"customer {plain(customer['user_id'])}", "bold")
    basket = f" before a basket of {customer['basket_lines']} products on {_format_day(customer['time_ms'])} "
    console.print(Text.assemble("\n", name, basket, ("(the last suitable basket, not chosen by its result)", "dim")))
    history = _build_list("latest history")
    for entry in customer["history"]:
        history.add_row(_format_day(entry["time_ms"]), plain(entry["title"]))
    inferred = _build_list("inferred behaviors, with confidence")
    for entry in customer["inferred"]:
        inferred.add_row(f"{entry['confidence']:.3f}", plain(entry["title"]), "bought" if entry["bought"] else "")
    ranked = _build_list("top of the ranking")
    for position, entry in enumerate(customer["ranked"], start=1):
        ranked.add_row(str(position), plain(entry["title"]), format_marks(entry))
    for table in (history, inferred, ranked):
        console.print(table)


def _build_list(title: str) -> Table:
    """A table without a header, whose first column names or numbers the rows."""
    return Table(title=plain(title), title_justify="left", show_header=False)


def format_marks(entry: Report) -> str:
    """Whether a ranked product was in the basket, and in the history before."""
    return ", ".join(text for key, text in (("bought", "bought"), ("bought_before", "bought before")) if entry[key])


def _format_day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %Y")
