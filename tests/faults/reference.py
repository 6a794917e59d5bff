"""What the store would hold without any fault."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from features.definitions import VIEWS
from features.repository import FeatureRepository
from reaseq.artifacts import current
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.knowledge.llm.ledger import Ledger
from reaseq.records import Event, Item
from reaseq.settings import Settings
from streams.assembly import assemble
from streams.contract.delivery import Delivery
from streams.contract.stage import BatchPolicy
from streams.contract.topics import ITEM_FEATURES
from streams.runtime.in_process import InProcessBroker, InProcessRuntime
from tests.faults.load import Record, build_raw

Rows = dict[str, dict[bytes, bytes]]


class Reference:
    """The same stages in process, where nothing fails."""

    def __init__(self, state: Path, settings: Settings) -> None:
        torch.set_num_threads(settings.worker.threads)  # sums over threads round differently
        own = settings.model_copy(deep=True, update={"state_dir": state})
        own.store.profile = "embedded"
        self._system = assemble(own, BatchPolicy(256, 0.0), BatchPolicy(5000, 3600.0))
        self._log = InProcessBroker()
        self._log.subscribe(ITEM_FEATURES.name, self._system.apply_item_records)
        self._runtime = InProcessRuntime(
            self._log, lambda stage: Delivery(stage, self._log, self._system.store, 300.0), self._system.stages
        )
        self._loop = asyncio.Runner()  # one for all: what the stages share belongs to it
        self._settings = settings
        self._ledger_file = own.ledger_file

    def close(self) -> None:
        """End its loop."""
        self._loop.close()

    def take(self, produced: Sequence[Record], closing: Sequence[Event]) -> int:
        """Process the records, items first; returns how many went to the dead letters."""
        self._system.use_behavior(current(self._settings.models_dir, BEHAVIOR))
        self._share_answers()
        before = len(self._log.dead_letters)
        items = [record for record in produced if isinstance(record, Item)]
        others = [record for record in produced if not isinstance(record, Item)]

        async def replay() -> None:
            for records in (items, others, closing):
                await self._log.produce([build_raw(record) for record in records])
                await self._runtime.run_until_idle(flush=True)

        self._loop.run(replay())
        return len(self._log.dead_letters) - before

    def _share_answers(self) -> None:
        """What the language model answered once it need not be asked again."""
        with closing(Ledger(self._settings.ledger_file)) as theirs, closing(Ledger(self._ledger_file)) as ours:
            exported = self._ledger_file.with_suffix(".parquet")
            theirs.export_parquet(exported)
            ours.import_parquet(exported)

    def rows(self) -> Rows:
        """What is in its store."""
        return to_rows(self._system.store)


def to_rows(store: FeatureRepository) -> Rows:
    """Every packed row of every view."""
    return {view.name: dict(store.online.scan(store.config, view)) for view in VIEWS}
