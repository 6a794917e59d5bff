"""Parity between served features and the point-in-time join, on a real archive joined by Feast. Covers every result."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from features.archive import Archive
from features.parity import compare, read_served_features
from features.repository import FeatureRepository
from reaseq.aggregates import BUILT_IN, AggregateTable, PartialRow, kept_series
from reaseq.records import EventDelta, FeatureRecord, History, Inferred, ItemAggregates, ItemFeatures, UserFeatures
from reaseq.settings import Settings
from serving.degradation import RankingResult, RankingTask
from serving.served_feature_log import ServedFeatureLog
from tests.fakes.catalog import build_table, item

pytestmark = pytest.mark.integration


def user(events: int, at_ms: int) -> UserFeatures:
    numbers = tuple(range(events))
    history = History(item_ids=("i1",) * events, types=(4,) * events, times_ms=numbers, event_keys=numbers)
    inferred = Inferred(item_ids=("i2",), confidences=(0.5,), model="m", as_of_ms=at_ms, events_seen=events, latent=b"ab")
    return UserFeatures(user_id="u", event_time_ms=at_ms, events_seen=events, history=history, inferred=inferred)


FIRST, SECOND, THIRD = user(1, at_ms=1000), user(2, at_ms=2000), user(3, at_ms=3000)
TAMPERED = msgspec.structs.replace(SECOND, inferred=msgspec.structs.replace(SECOND.inferred, latent=b"xy"))
TEXT = item(1, event_time_ms=500, status="text", knowledge=None, price=2.1)
REASONED = item(1, event_time_ms=500, price=2.1)


def sold(*times_ms: int) -> ItemAggregates:
    """The row of an item after events at these times, which come from partition 3."""
    row = PartialRow("i1", "3", None, kept_series(BUILT_IN))
    row.apply([EventDelta("3", offset, offset, 1, "i1", "view", time_ms, None) for offset, time_ms in enumerate(times_ms)])
    return row.record()


SOLD, SOLD_AGAIN = sold(600), sold(600, 1800)


class Serving:
    """A served-feature log, an archive and a Feast repository."""

    def __init__(self, state_dir: Path) -> None:
        self.settings = Settings(state_dir=state_dir)
        self.repository = FeatureRepository(self.settings)
        self.repository.apply()
        archive = Archive(self.settings.archive_dir, self.repository.vocabulary)
        archive.create()
        batches: list[list[FeatureRecord]] = [[FIRST, SECOND, TEXT, SOLD], [SECOND, REASONED, SOLD_AGAIN]]
        for records in batches:  # one record is delivered twice
            archive.append(records)
        archive.compact(min_files=2)  # the replaced files are still there for readers

    def serve(
        self, user: UserFeatures | None, now_ms: int, of_table: ItemFeatures = REASONED, sold: ItemAggregates = SOLD
    ) -> None:
        table, aggregates = build_table(of_table), AggregateTable(BUILT_IN)
        aggregates.apply(table.snapshot.rows([sold.item_id]).tolist(), [sold])
        log = ServedFeatureLog(self.settings.served_features_dir, 1.0, table, aggregates)
        log.offer(RankingTask("u", ["i1"], now_ms, 0), RankingResult(np.zeros(1, np.float32), "fresh", (), "v", user))


def test_audit_classifies_every_difference(tmp_path: Path) -> None:
    serving = Serving(tmp_path)
    serving.serve(FIRST, 1500)  # equal
    serving.serve(FIRST, 2500)  # late: the archive has the second row by then
    serving.serve(SECOND, 1500)  # ahead: the request is for a time in the past
    serving.serve(THIRD, 3500)  # not archived yet
    serving.serve(TAMPERED, 2500, sold=msgspec.structs.replace(SOLD, tiles=b"\x90"))  # different in one feature each
    serving.serve(None, 2500, of_table=TEXT, sold=SOLD_AGAIN)  # late: the join returns the reasoned one

    parity = compare(serving.repository, read_served_features(serving.settings.served_features_dir))

    assert parity.results["user_history:history"] == {"equal": 2, "late": 1, "ahead": 1, "not archived yet": 1}
    assert parity.results["user_inferred:as_of_ms"] == {"equal": 2, "late": 1, "ahead": 1, "not archived yet": 1}
    assert parity.results["user_inferred:latent"] == {"equal": 4, "different": 1}  # equal in all versions
    assert parity.results["item_representation:price"] == {"equal": 6}
    assert parity.results["item_representation:vector"] == {"equal": 6}
    assert parity.results["item_representation:claim_ids"] == {"equal": 5, "late": 1}
    assert parity.results["item_aggregates:tiles"] == {"equal": 3, "late": 2, "different": 1}
    assert (parity.rows, parity.different) == (
        17,
        ["user_inferred:latent of user u at 2500", "item_aggregates:tiles of aggregates 3/i1 at 2500"],
    )
