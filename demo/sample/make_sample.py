"""Makes the bundled sample of UCI Online Retail from its published table and from recorded LLM answers.

    python demo/sample/make_sample.py TRANSACTIONS.parquet KNOWLEDGE.parquet

TRANSACTIONS has the columns of the published table (InvoiceNo, StockCode, … in snake case). The sample keeps order lines of
known customers with a positive quantity and price, for products (a stock code of five digits, with or without a suffix of
letters). Cancellations and exact duplicates are dropped.
"""

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
LIMIT_BYTES = 4 * 1024 * 1024


def order_lines(transactions: pd.DataFrame) -> pa.Table:
    """The cleaned lines, in order of time and invoice."""
    kept = transactions[
        transactions.customer_id.notna()
        & ~transactions.invoice_no.str.startswith("C")
        & (transactions.quantity > 0)
        & (transactions.unit_price > 0)
        & transactions.stock_code.str.fullmatch(r"\d{5}[A-Za-z]*")
    ].drop_duplicates()
    kept = kept.assign(title=kept.description.str.split().str.join(" ")).sort_values(
        ["invoice_date", "invoice_no"], kind="stable"
    )
    return pa.table(
        {
            "invoice": pa.array(kept.invoice_no.astype("int32")),
            "time": pa.array(kept.invoice_date.dt.tz_localize("UTC").astype("datetime64[s, UTC]")),
            "customer": pa.array(kept.customer_id.astype("int32")),
            "item": pa.array(kept.stock_code).dictionary_encode(),
            "title": pa.array(kept.title).dictionary_encode(),
            "quantity": pa.array(kept.quantity.astype("int32")),
            "price": pa.array(kept.unit_price.astype("float32")),
        }
    )


def main(transactions: Path, knowledge: Path) -> None:
    """Write the two files of the sample beside this script."""
    lines = order_lines(pd.read_parquet(transactions))
    pq.write_table(lines, HERE / "order_lines.parquet", compression="zstd", compression_level=19)
    pq.write_table(pq.read_table(knowledge), HERE / "knowledge.parquet", compression="zstd", compression_level=19)
    size = sum(path.stat().st_size for path in HERE.glob("*.parquet"))
    print(f"{lines.num_rows} order lines, {size / 1e6:.2f} MB in all")
    if size > LIMIT_BYTES:
        raise SystemExit(f"the sample is larger than {LIMIT_BYTES} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
