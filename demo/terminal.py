"""The report on a terminal."""

from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from demo.judge import ALL, ALL_UNSEEN, NEW, NEW_UNSEEN
from demo.report import Report

SLICE_NAMES = {ALL: "all", NEW: "new to customer", ALL_UNSEEN: "all, unseen", NEW_UNSEEN: "new, unseen"}

MEASURES = {
    "hr_10": "HR@10",
    "gauc": "GAUC",
    "gauc_matched": "GAUC against items that sold as often over the last 30 days (matched)",
}


def show(report: Report, console: Console) -> None:
    """Print the figures, the knowledge card and the customer's ranked list."""
    console.print(_overview(report))
    console.print(f"\nranking before each of {report['baskets']:,} baskets, by number of targets")
    for measure in MEASURES:
        console.print(_quality(report, measure))
    console.print(
        "[dim]Unseen: items that training never saw; judge them on the matched GAUC. "
        "An item's first sale is not judged: the data lists it with that sale.[/dim]\n"
    )
    if report["item_card"]:
        _show_card(report["item_card"], console)
    if report["customer"]:
        _show_customer(report["customer"], console)


def _overview(report: Report) -> Table:
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(report["items_onboarded_by_status"].items()))
    reasoners = ", ".join(f"{count} {name}" for name, count in sorted(report["items_reasoned_by"].items()))
    table = Table(title="the stream", title_justify="left", show_header=False)
    rows = [
        (
            "items onboarded, by status",
            f"{statuses} ({reasoners}); {report['items_listed_live']} listed during the live replay",
        ),
        ("events", f"{report['events']:,}, of which live {report['events_live']:,}"),
        ("dead letters", str(report["dead_letters"])),
        ("event → servable history", _pair(report, "event_to_servable")),
        ("event → servable inferred behaviors", _pair(report, "event_to_inferred")),
        ("item → servable by its text", _pair(report, "item_to_text")),
        ("item → servable with knowledge", _pair(report, "item_to_reasoned")),
        (f"ranking {report['rank_candidates']:,} products, with feature read", _pair(report, "rank")),
        ("served rows beside the point-in-time join", _parity(report["parity"])),
        ("time", f"{report['total_s']:.0f} s on {report['hardware']['cpus']} CPUs"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _parity(parity: Report) -> str:
    others = ", ".join(f"{count} features {verdict}" for verdict, count in parity["features_not_equal"].items())
    return f"{parity['rows']} compared, {others or 'every feature equal'}"


def _quality(report: Report, measure: str) -> Table:
    """One measure: a row a model, a column a slice."""
    table = Table(title=MEASURES[measure], title_justify="left")
    table.add_column("model")
    targets = {row["slice"]: row["targets"] for row in report["quality"]}
    for part, name in SLICE_NAMES.items():
        table.add_column(f"{name}\n{targets.get(part, 0):,}", justify="right", no_wrap=True)
    for model in dict.fromkeys(row["model"] for row in report["quality"]):
        by_slice = {row["slice"]: row[measure] for row in report["quality"] if row["model"] == model}
        values = [by_slice[part] for part in SLICE_NAMES]
        table.add_row(model, *("–" if value is None else f"{value:.3f}" for value in values))
    return table


def _pair(report: Report, name: str) -> str:
    p50, p99 = report[f"{name}_p50_ms"], report[f"{name}_p99_ms"]
    return "nothing measured" if p50 is None or p99 is None else f"p50 {p50:.0f} ms, p99 {p99:.0f} ms"


def _show_card(card: Report, console: Console) -> None:
    table = Table(title=f"knowledge card: {escape(card['title'])} ({card['item_id']})", title_justify="left", show_header=False)
    price = "unknown" if card["price"] is None else f"£{card['price']:.2f}"
    table.add_row("status, price", f"{card['status']}, {price}")
    if card["profile"]:
        table.add_row("profile", escape(card["profile"]))
    for group, claims in card["claims"].items():
        told = ", ".join(f"{claim['value']} ({claim['confidence']:.2f})" for claim in claims)
        table.add_row(group, f"{told} [dim]{claims[0]['reasoner']}[/dim]")
    for name in ("complements", "substitutes"):
        if card[name]:
            table.add_row(name, escape(", ".join(card[name])))
    table.add_row("fingerprint", card["fingerprint"])
    console.print(table)


def _show_customer(customer: Report, console: Console) -> None:
    console.print(
        f"\n[bold]customer {customer['user_id']}[/bold] before a basket of {customer['basket_lines']} products "
        f"on {_day(customer['time_ms'])} [dim](the last suitable basket, not picked for its outcome)[/dim]"
    )
    past = Table(title="did", title_justify="left", show_header=False)
    for entry in customer["history"]:
        past.add_row(_day(entry["time_ms"]), escape(entry["title"]))
    guessed = Table(title="inferred, with confidence", title_justify="left", show_header=False)
    for entry in customer["inferred"]:
        guessed.add_row(f"{entry['confidence']:.3f}", escape(entry["title"]), "bought" if entry["bought"] else "")
    ranked = Table(title="ranked", title_justify="left", show_header=False)
    for place, entry in enumerate(customer["ranked"], start=1):
        ranked.add_row(str(place), escape(entry["title"]), marks(entry))
    for table in (past, guessed, ranked):
        console.print(table)


def marks(entry: Report) -> str:
    """What is to be said of a ranked product."""
    return ", ".join(word for key, word in (("bought", "bought"), ("bought_before", "had before")) if entry[key])


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%d %b %Y")
