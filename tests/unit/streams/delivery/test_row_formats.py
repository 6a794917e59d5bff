"""A stage of an older release meets rows that a newer one wrote, on a real embedded store."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from features import record_mapping, row_format
from features.repository import FeatureRepository
from reaseq.errors import NewerRowFormat
from reaseq.records import History, Inferred, UserFeatures
from reaseq.settings import BehaviorSettings, Settings
from streams.delivery.delivery import Delivery
from streams.delivery.stage import BatchPolicy
from streams.delivery.topics import USER_FEATURES
from streams.stages.history import HistoryStage
from tests.fakes.delivery import Journal, event_record
from tests.unit.streams.stages.test_user_stages import FakeItemTable

DEADLINE_S = 60.0


class NewerRelease:
    """Writes a higher row format, and one more column in the packed inferred behaviors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def install(self) -> None:
        """Upgrade."""
        self._monkeypatch.setattr(row_format, "FORMAT", row_format.FORMAT + 1)
        self._monkeypatch.setattr(record_mapping, "pack_inferred", _pack_three_columns)

    def remove(self) -> None:
        """Roll back."""
        self._monkeypatch.undo()


def _pack_three_columns(inferred: Inferred) -> bytes:
    return msgspec.msgpack.encode((inferred.item_ids, inferred.confidences, "third column"))


async def test_older_stage_waits_at_newer_rows_and_goes_on_after_the_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, newer, journal = (
        FeatureRepository(Settings(state_dir=tmp_path), require_complete=True),
        NewerRelease(monkeypatch),
        Journal(),
    )
    store.apply()
    newer.install()
    history = History(item_ids=("j",), types=(1,), times_ms=(0,), event_keys=(7,))
    store.write([UserFeatures(user_id="u", event_time_ms=0, events_seen=1, history=history)])
    newer.remove()
    stage = HistoryStage(store, FakeItemTable(), BehaviorSettings(), BatchPolicy(10, 0))
    delivery = Delivery(stage, journal, store, 300.0)

    await delivery.handle([event_record("of another user", "v")])
    waiting = asyncio.create_task(delivery.handle([event_record("of this user", "u")]))
    async with asyncio.timeout(DEADLINE_S):
        while NewerRowFormat.reason not in delivery.waiting_for:
            await asyncio.sleep(0.01)

    assert (
        not waiting.done()
        and [record.key for record in journal.produced if record.topic == USER_FEATURES.name] == [b"v"]
        and not journal.dead_letters
    )
    newer.install()
    async with asyncio.timeout(DEADLINE_S):
        await waiting
    assert store.read_users(["u"])["u"].history.item_ids == ("j", "i")
    assert not journal.dead_letters


def test_reader_of_an_older_release_reads_what_it_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, newer = FeatureRepository(Settings(state_dir=tmp_path)), NewerRelease(monkeypatch)
    reader.apply()
    record = UserFeatures(
        user_id="u",
        event_time_ms=1,
        events_seen=1,
        history=History(),
        inferred=Inferred(item_ids=("i",), confidences=(0.5,)),
    )
    newer.install()
    reader.write([record])
    newer.remove()

    assert reader.read_users(["u"]) == {"u": record}
