"""The archive stage appends every record. Where a stale one came last, the newer record is produced again."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from features.newest_versions import NewestVersions
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord, History, UserFeatures
from streams.delivery.delivery import Delivery
from streams.delivery.messages import Message, encode
from streams.delivery.stage import BatchPolicy
from streams.delivery.topics import USER_FEATURES
from streams.stages.archive import ArchiveStage, find_suspects
from tests.fakes.delivery import Journal


class FakeArchive:
    """An archive in memory."""

    def __init__(self) -> None:
        self.appended: list[FeatureRecord] = []

    def append(self, records: Sequence[FeatureRecord]) -> None:
        self.appended += records

    def compact(self) -> int:
        return 0

    def erasure_requests(self, records: Sequence[FeatureRecord]) -> dict[str, int]:
        return {}


class UnavailableStore(Journal):
    """A store that does not answer."""

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        raise StoreUnavailable("connection lost")


def build_stage(archive: FakeArchive, store: Journal) -> ArchiveStage:
    return ArchiveStage(USER_FEATURES, archive, store, BatchPolicy(10, 0), lambda users: None)


def user(events_seen: int) -> UserFeatures:
    return UserFeatures(user_id="u", event_time_ms=1, events_seen=events_seen, history=History())


def messages(*records: UserFeatures) -> list[Message]:
    return [Message(record.user_id, record, 0) for record in records]


async def test_newer_record_is_produced_again_if_a_stale_one_came_last() -> None:
    archive, store = FakeArchive(), Journal()
    store.stored_events = 2
    delivery = Delivery(build_stage(archive, store), store, store, 300)

    await delivery.handle([encode(user(2), 1), encode(user(1), 1)])

    assert archive.appended == [user(2), user(1)]
    assert [record.value for record in store.produced] == [encode(user(2), 1).value] and not store.written


async def test_nothing_is_produced_if_the_newest_record_came_last() -> None:
    archive, store = FakeArchive(), Journal()
    store.stored_events = 2

    effects = await build_stage(archive, store).process(messages(user(1), user(2)))

    assert not effects.superseded and archive.appended == [user(1), user(2)]


async def test_only_the_first_records_of_an_entity_and_those_out_of_order_are_looked_up() -> None:
    """While the archive is behind, the store always has newer records, which follow in the topic anyway."""
    store = Journal()
    store.stored_events = 9
    stage = build_stage(FakeArchive(), store)

    first = await stage.process(messages(user(1), user(2)))
    in_order = [await stage.process(messages(user(events))) for events in (3, 4, 4)]
    out_of_order = await stage.process(messages(user(5), user(3)))
    late = await stage.process(messages(user(4)))

    assert first.superseded == [user(2)], "whether a newer one came before is not known"
    assert not any(effects.superseded for effects in in_order)
    assert (out_of_order.superseded, late.superseded) == ([user(3)], [user(4)])


def test_no_more_entities_than_the_limit_are_remembered() -> None:
    seen = NewestVersions(limit_entities=2)
    for user_id in ("a", "b", "a", "c"):
        seen.add([replace(user(1), user_id=user_id)])

    assert [record.entity_id for record in find_suspects([replace(user(1), user_id=user_id) for user_id in "abc"], seen)] == [
        "b"
    ]


async def test_batch_that_waits_for_the_store_is_not_appended_again_and_again() -> None:
    archive = FakeArchive()

    with pytest.raises(StoreUnavailable):
        await build_stage(archive, UnavailableStore()).process(messages(user(1)))

    assert not archive.appended
