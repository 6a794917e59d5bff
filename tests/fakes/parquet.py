"""Parquet files for tests."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, **columns: Sequence[object]) -> Path:
    """Write a parquet file with the given columns; returns its path."""
    pq.write_table(pa.table(columns), path)
    return path
