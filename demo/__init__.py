"""The demo: the whole system on the bundled sample, evaluated prequentially. `make demo` runs it."""

from pathlib import Path

SAMPLE = Path(__file__).with_name("sample")
ORDER_LINES = SAMPLE / "order_lines.parquet"
ANSWERS = SAMPLE / "knowledge.parquet"
VOCABULARY = "giftware-3"  # of the recorded answers
