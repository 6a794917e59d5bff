"""The served-feature log: a sample of the feature rows behind rankings, for `features.parity` to audit."""

import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import structlog

from features import definitions as views
from features.parity import AUDITED, ServedRow, digest
from features.record_mapping import user_rows
from features.served_feature_files import ServedFeatureFiles
from reaseq import float16
from reaseq.aggregates import AggregateTable
from reaseq.aggregates.table import Part
from reaseq.records import UserFeatures, Version, to_part_id
from reaseq.representation.item_table import NO_PRICE, ItemTable, Snapshot
from serving import metrics
from serving.degradation import RankingResult, RankingTask

log = structlog.get_logger()

REPORT_INTERVAL_S = 60.0


class ServedFeatureLog:
    """Appends sampled rows to the log in `folder`: the user's row, and the rows of one of the candidates."""

    def __init__(
        self,
        folder: Path,
        share: float,
        table: ItemTable,
        aggregates: AggregateTable,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._files = ServedFeatureFiles(folder)
        self._share = share
        self._table, self._aggregates = table, aggregates
        self._clock = clock
        self._report_after_s = 0.0

    def offer(self, task: RankingTask, result: RankingResult) -> None:
        """Log the rows if the request is sampled and its features were read from the store.

        Never raises: if the rows cannot be logged, that is counted, and reported once in `REPORT_INTERVAL_S`.
        """
        try:
            self._log(task, result)
        except Exception as error:  # whatever is wrong with an audit, the ranking stands
            metrics.SERVED_LOG_FAILURES.inc()
            if self._clock() >= self._report_after_s:
                self._report_after_s = self._clock() + REPORT_INTERVAL_S
                log.warning("served_features_not_logged", folder=str(self._folder), error=repr(error))

    def _log(self, task: RankingTask, result: RankingResult) -> None:
        sample = _hash(task)
        if result.fallback_level != "fresh" or sample >= self._share * 2**64:
            return
        rows = [served_user(result.user, task.now_ms)] if result.user else []
        item_id = task.candidate_ids[sample % len(task.candidate_ids)]
        if version := self._table.version(item_id):
            table = self._table.snapshot
            rows.append(served_item(table, item_id, version, task.now_ms))
            for source, part in self._aggregates.parts(int(table.rows([item_id])[0])).items():
                rows.append(served_aggregates(to_part_id(source, item_id), part, task.now_ms))
        self._files.append(rows)


def served_user(user: UserFeatures, now_ms: int) -> ServedRow:
    """The log's row for a user."""
    values = {row.view.name: row.values for row in user_rows(user)}
    digests = {f"{view}:{name}": digest(values[view].get(name)) for view, names in AUDITED["user"].items() for name in names}
    return ServedRow("user", user.user_id, now_ms, user.event_time_ms, user.revision, digests)


def served_item(table: Snapshot, item_id: str, version: Version, now_ms: int) -> ServedRow:
    """The log's row for an item, from the item table."""
    row = int(table.rows([item_id])[0])
    contents = table.contents[table.slots[row]]
    is_claim = contents.claims > 0  # the rest is padding
    price = float(table.prices[row])
    values = {
        "vector": float16.pack(contents.vectors.cpu().numpy()),
        "claim_ids": contents.claims[is_claim].cpu().numpy().astype(np.int32).tobytes(),
        "claim_confidences": float16.pack(contents.confidences[is_claim].cpu().numpy()),
        "price": None if price == NO_PRICE else price,
        "listed_ms": int(table.listed_ms[row]),
    }
    view = views.item_representation.name
    digests = {f"{view}:{name}": digest(values[name]) for name in AUDITED["item"][view]}
    return ServedRow("item", item_id, now_ms, *version, digests)


def served_aggregates(part_id: str, part: Part, now_ms: int) -> ServedRow:
    """The log's row for the aggregates of an item and a source."""
    ((view, names),) = AUDITED["aggregates"].items()
    return ServedRow("aggregates", part_id, now_ms, *part.version, {f"{view}:{name}": digest(part.tiles) for name in names})


def _hash(task: RankingTask) -> int:
    """A 64-bit hash of user and timestamp. Whether a request is sampled, and with which candidate, depends only on these."""
    return int.from_bytes(blake2b(f"{task.user_id}:{task.now_ms}".encode(), digest_size=8).digest(), "big")
