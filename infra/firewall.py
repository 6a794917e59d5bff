"""The machine's packet filter as it was before an engine or a node of our own changed it."""

from pathlib import Path

from infra.programs import run

FAMILIES = ("iptables", "ip6tables")
# What `iptables-save` says of tables without rules, unless nobody has used them: then it says nothing.
CHAINS = {
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
}
EMPTY = "".join(
    f"*{table}\n{''.join(f':{chain} ACCEPT{chr(10)}' for chain in chains)}COMMIT\n" for table, chains in CHAINS.items()
)


def save(file: Path) -> None:
    """Write the rules to `file` and its neighbors, unless they are there from an earlier, interrupted run."""
    for family in FAMILIES:
        rules = _rules(file, family)
        if not rules.exists():
            rules.write_text(run([f"{family}-save"]).stdout)


def restore(file: Path) -> None:
    """Make the rules what they were at `save`, and delete the files."""
    for family in FAMILIES:
        rules = _rules(file, family)
        if rules.exists():
            run([f"{family}-restore"], text=EMPTY + rules.read_text())
            rules.unlink()


def _rules(file: Path, family: str) -> Path:
    return file.with_suffix(f".{family}")
