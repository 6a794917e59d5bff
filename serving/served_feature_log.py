"""The served-feature log: a sample of the rows that rankings were served with, for `features.parity` to audit."""

import os
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np

from features import definitions as views
from features.parity import AUDITED, ServedRow, digest
from features.record_mapping import user_rows
from reaseq import float16
from reaseq.records import UserFeatures, Version
from reaseq.representation.item_table import NO_PRICE, ItemTable, Snapshot
from serving.degradation import RankingResult, RankingTask

LOG_LIMIT_BYTES = 64 * 1024 * 1024  # of one file; the previous file is kept


class ServedFeatureLog:
    """Appends a sample of what is served to `<folder>/rows.jsonl`: the user's row, and the row of one of the candidates.

    Which requests are drawn, and which candidate, hangs on user and moment alone.
    """

    def __init__(self, folder: Path, share: float, table: ItemTable) -> None:
        self._file = folder / "rows.jsonl"
        self._share = share
        self._table = table
        folder.mkdir(parents=True, exist_ok=True)

    def offer(self, task: RankingTask, result: RankingResult) -> None:
        """Log the rows if the request is drawn and the user's was read for it."""
        drawn = _draw(task)
        if result.fallback_level != "fresh" or drawn >= self._share * 2**64:
            return
        rows = [served_user(result.user, task.now_ms)] if result.user else []
        item_id = task.candidate_ids[drawn % len(task.candidate_ids)]
        if version := self._table.version(item_id):
            rows.append(served_item(self._table.snapshot, item_id, version, task.now_ms))
        with self._file.open("ab") as log:
            log.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            full = log.tell() > LOG_LIMIT_BYTES
        if full:
            os.replace(self._file, self._file.with_suffix(".1.jsonl"))


def served_user(user: UserFeatures, now_ms: int) -> ServedRow:
    """A user's row as the log keeps it."""
    told = {row.view.name: row.values for row in user_rows(user)}
    digests = {f"{view}:{name}": digest(told[view].get(name)) for view, names in AUDITED["user"].items() for name in names}
    return ServedRow("user", user.user_id, now_ms, user.event_time_ms, user.revision, digests)


def served_item(table: Snapshot, item_id: str, version: Version, now_ms: int) -> ServedRow:
    """An item's row as the item table holds it."""
    row = int(table.rows([item_id])[0])
    contents = table.contents[table.slots[row]]
    real = contents.claims > 0
    price = float(table.prices[row])
    told = {
        "vector": float16.pack(contents.vectors.cpu().numpy()),
        "claim_ids": contents.claims[real].cpu().numpy().astype(np.int32).tobytes(),
        "claim_confidences": float16.pack(contents.confidences[real].cpu().numpy()),
        "price": None if price == NO_PRICE else price,
        "listed_ms": int(table.listed_ms[row]),
    }
    view = views.item_representation.name
    return ServedRow(
        "item", item_id, now_ms, *version, {f"{view}:{name}": digest(told[name]) for name in AUDITED["item"][view]}
    )


def _draw(task: RankingTask) -> int:
    """A hash of user and time: which requests are logged, and which candidate, depends on these alone."""
    drawn = blake2b(f"{task.user_id}:{task.now_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big")
