"""The reference: what the store contains without any fault."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import torch

from features.definitions import VIEWS, item_aggregates
from features.repository import FeatureRepository
from reaseq.aggregates import BUILT_IN, Tiles, kept_series, merge_tiles, unpack_tiles
from reaseq.aggregates.tiles import drop_expired
from reaseq.artifacts import current
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.records import Event, Item
from reaseq.settings import Settings
from streams.assembly import Batching, assemble
from streams.delivery.delivery import Delivery
from streams.delivery.stage import BatchPolicy
from streams.delivery.topics import ITEM_FEATURES
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from tests.faults.load import Record, build_raw

Rows = dict[str, dict[bytes, bytes]]
Aggregates = dict[str, Tiles]  # by item


class Reference:
    """Runs the same stages in process, without faults."""

    def __init__(self, state: Path, settings: Settings) -> None:
        torch.set_num_threads(settings.worker.threads)  # the rounding of sums depends on the number of threads
        own = settings.model_copy(deep=True, update={"state_dir": state})
        own.store.profile = "embedded"
        store = FeatureRepository(own)
        store.apply()
        batch = BatchPolicy(256, 0.0)
        self._system = assemble(own, store, Batching(batch, batch, batch, BatchPolicy(5000, 3600.0)))
        self._broker = InProcessBroker()
        self._broker.subscribe(ITEM_FEATURES.name, self._system.items.apply_records)
        self._runtime = InProcessRuntime(
            self._broker, lambda stage: Delivery(stage, self._broker, self._system.store, 300.0), self._system.stages
        )
        self._loop = asyncio.Runner()  # a single event loop, to which the stages' shared objects belong
        self._settings = settings
        self._ledger_file = own.ledger_file

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()

    def process(self, produced: Sequence[Record], last_events: Sequence[Event]) -> int:
        """Process the records, items first, and then `last_events`; returns the number of new dead letters."""
        self._system.use_behavior(current(self._settings.models_dir, BEHAVIOR))
        self._share_answers()
        before = len(self._broker.dead_letters)
        items = [record for record in produced if isinstance(record, Item)]
        others = [record for record in produced if not isinstance(record, Item)]

        async def replay() -> None:
            for records in (items, others, last_events):
                await self._broker.produce([build_raw(record) for record in records])
                await self._runtime.run_until_idle(flush=True)

        self._loop.run(replay())
        return len(self._broker.dead_letters) - before

    def _share_answers(self) -> None:
        """Copy the language model's answers from the system's ledger, so that the reference makes no calls."""
        with closing(Ledger(self._settings.ledger_file)) as system, closing(Ledger(self._ledger_file)) as own:
            exported = self._ledger_file.with_suffix(".parquet")
            system.export_parquet(exported)
            own.import_parquet(exported)

    def rows(self) -> Rows:
        """The rows of the reference's store."""
        return to_rows(self._system.store)

    def aggregates(self) -> Aggregates:
        """The aggregates of the reference's store."""
        return to_aggregates(self._system.store)


def to_rows(store: FeatureRepository) -> Rows:
    """All packed rows, by view, except the aggregates, which say where in which partition their events were."""
    return {view.name: dict(store.online.scan(store.config, view)) for view in VIEWS if view is not item_aggregates}


def to_aggregates(store: FeatureRepository) -> Aggregates:
    """The tiles of each item, added up over the partitions."""
    parts: dict[str, list[Tiles]] = {}
    for page in store.scan_aggregates():
        for record in page:
            parts.setdefault(record.item_id, []).append(unpack_tiles(record.tiles))
    newest_ms = max(
        (tile * series.tile_ms for part in chain(*parts.values()) for series in part for tile in part[series]), default=0
    )
    kept = kept_series(BUILT_IN)
    return {item_id: drop_expired(merge_tiles(part), kept, newest_ms) for item_id, part in parts.items()}
