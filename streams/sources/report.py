"""What happened to values on their way from a file to a topic, counted by field."""

from dataclasses import dataclass, field

EXAMPLE_LIMIT_CHARS = 60
REFUSED = "refused"


@dataclass
class Finding:
    """How many rows had one thing happen to a field, and the first of them."""

    rows: int
    example: str


@dataclass
class Report:
    """Findings by (field, what happened), in the order in which they were first seen. `refused` counts rows."""

    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)
    rows: int = 0
    refused: int = 0

    def note(self, name: str, what: str, row: int, value: object) -> None:
        """Count that `what` happened to the field `name` in a row."""
        finding = self.findings.setdefault((name, what), Finding(0, f"row {row}: {shorten(value)}"))
        finding.rows += 1


def shorten(value: object) -> str:
    """The value as it would be quoted in an error message."""
    text = repr(value)
    return text if len(text) <= EXAMPLE_LIMIT_CHARS else f"{text[:EXAMPLE_LIMIT_CHARS]}…"
