"""The repository: how records compare with the store, what an emptied or failing store means, and paging."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
from feast import FeatureView
from feast.repo_config import RepoConfig

from features import repository as module
from features.aggregate_values import read_aggregate_values
from features.definitions import VIEWS
from features.packed_store import Tokens
from features.repository import FeatureRepository
from features.row_format import RowVersion
from features.sqlite_store import PackedSqliteOnlineStore
from reaseq.aggregates import Aggregate, Series, pack_tiles
from reaseq.errors import StoreUnavailable
from reaseq.records import FeatureRecord, History, ItemAggregates, ItemFeatures, UserFeatures
from reaseq.settings import Settings


class EmptiedStore(PackedSqliteOnlineStore):
    """A fake of a complete store that is emptied right before it is read."""

    complete = True
    rebuilt = False

    def find_incomplete(self, config: RepoConfig, shards: Iterable[int]) -> list[int]:
        return [] if self.complete else [0]

    def end_rebuild(self, config: RepoConfig, tokens: Tokens) -> list[int]:
        self.rebuilt = True
        return []

    def get_all(self, config: RepoConfig, requests: Sequence[tuple[FeatureView, Sequence[bytes]]]) -> list[list[bytes | None]]:
        self.complete = False
        return [[None] * len(keys) for _, keys in requests]

    def read_versions(self, config: RepoConfig, table: FeatureView, keys: Sequence[bytes]) -> list[RowVersion | None]:
        self.complete = False
        return [None] * len(keys)


def user(user_id: str = "u", events_seen: int = 1, time_ms: int = 1001) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=time_ms, events_seen=events_seen, history=History())


def item(item_id: str = "u", title: str = "thing", time_ms: int = 1001) -> ItemFeatures:
    return ItemFeatures(item_id=item_id, event_time_ms=time_ms, listed_ms=1, status="text", title=title, vector=b"")


def aggregates(partition: int = 0, deltas: int = 1, item_id: str = "i") -> ItemAggregates:
    return ItemAggregates(
        item_id=item_id,
        source=str(partition),
        event_time_ms=1001,
        deltas=deltas,
        applied_offset=7,
        applied_ms=8,
        earlier_ms=-1,
        tiles=pack_tiles({Series("view", "events", 300_000): {3: deltas}}),
    )


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepository:
    """A repository on SQLite."""
    repository = FeatureRepository(Settings(state_dir=tmp_path_factory.mktemp("state")))
    repository.apply()
    return repository


@pytest.fixture
def stored(applied: FeatureRepository) -> Iterator[FeatureRepository]:
    """The same with empty tables."""
    yield applied
    applied.online.update(applied.config, VIEWS, [], [], [], partial=True)
    applied.online.update(applied.config, [], VIEWS, [], [], partial=True)


def test_row_of_an_emptied_store_is_not_mistaken_for_a_new_entity(tmp_path: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=tmp_path), require_complete=True)

    for read in (lambda: repository.read_users(["u"]), lambda: repository.drop_stale([user()])):
        repository.online = EmptiedStore()
        with pytest.raises(StoreUnavailable, match="rebuild"):
            read()


def test_rebuild_that_fails_does_not_make_the_store_complete(tmp_path: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=tmp_path))
    repository.online = online = EmptiedStore()

    with pytest.raises(KeyError), repository.rebuilding():
        raise KeyError
    assert not online.rebuilt
    with repository.rebuilding():
        assert not online.rebuilt
    assert online.rebuilt


def test_store_that_fails_is_unavailable(tmp_path: Path) -> None:
    repository = FeatureRepository(Settings(state_dir=tmp_path))  # has no tables yet

    for call in (lambda: repository.read_users(["u"]), lambda: repository.write([user()])):
        with pytest.raises(StoreUnavailable):
            call()


def test_damaged_database_is_unavailable(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    FeatureRepository(settings).apply()
    for file in tmp_path.glob("online.db*"):
        file.write_bytes(b"no database" * 1000)
    repository = FeatureRepository(settings)

    for call in (lambda: repository.read_users(["u"]), lambda: repository.write([user()])):
        with pytest.raises(StoreUnavailable):
            call()


def test_records_are_compared_with_both_rows_of_the_store(stored: FeatureRepository) -> None:
    records: list[FeatureRecord] = [
        item(),
        user(),
        item("other", title="another thing"),
        user("new", time_ms=2002),
        user("old"),
        user("unknown"),
    ]
    stored.write([item(), user(), item("other"), user("new"), user("old", 2)])

    assert stored.compare(records) == ["equal", "equal", "different", "behind", "ahead", "behind"]


def test_newest_records_of_items_and_users_are_read(stored: FeatureRepository) -> None:
    newest: list[FeatureRecord] = [item(time_ms=3003), user(events_seen=3)]
    stored.write(newest)

    assert stored.newest([item(), user()]) == newest
    assert stored.write([item(), user("v"), user()]) == [item(), user()]


def test_aggregates_of_an_item_have_a_row_for_each_partition(stored: FeatureRepository) -> None:
    rows = [aggregates(), aggregates(1), aggregates(1, item_id="3/i")]
    stored.write(rows)

    assert stored.read_aggregates(["0/i", "1/i", "2/i", "1/3/i"]) == {"0/i": rows[0], "1/i": rows[1], "1/3/i": rows[2]}
    assert [record for page in stored.scan_aggregates() for record in page if record.item_id == "3/i"] == [rows[2]]


def test_values_of_an_item_add_up_its_rows_of_all_partitions(stored: FeatureRepository) -> None:
    views = Aggregate("views", "count", ["view"], windows=["1h"])
    stored.write([aggregates(0, 2), aggregates(1, 3), aggregates(1, 7, item_id="1/i")])

    values = read_aggregate_values(stored, [views], ["i", "1/i", "none"], now_ms=3 * 300_000)

    assert values == {"i": {"views_1h": 5}, "1/i": {"views_1h": 7}, "none": {"views_1h": 0}}


def test_records_of_several_kinds_are_written_together_and_each_keeps_the_newest(stored: FeatureRepository) -> None:
    stored.write([user(), aggregates(deltas=5), item(), aggregates(1)])

    older = aggregates(deltas=4)
    assert stored.write([user(events_seen=2), older, aggregates(1, deltas=2)]) == [older]
    assert stored.drop_stale([older, user(events_seen=3), aggregates(deltas=6)]) == [user(events_seen=3), aggregates(deltas=6)]
    assert stored.compare([aggregates(deltas=5), older, aggregates(2)]) == ["equal", "ahead", "behind"]
    assert stored.stored_versions(ItemAggregates, ["0/i", "2/i"]) == {"0/i": (1001, 5), "2/i": None}
    assert stored.newest([older, item()]) == [aggregates(deltas=5), item()]


def test_every_item_is_scanned_once(stored: FeatureRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCAN_PAGE_ENTITIES", 2)
    stored.write([item(f"i{number}") for number in range(5)])

    assert sorted(record.item_id for page in stored.scan_items() for record in page) == [f"i{number}" for number in range(5)]


def test_more_entities_are_read_and_written_at_once_than_a_statement_has_parameters(stored: FeatureRepository) -> None:
    users = [user(f"u{number}", events_seen=number + 1) for number in range(1203)]

    assert stored.write(users) == []

    assert list(stored.read_users([record.user_id for record in users]).values()) == users
    assert stored.compare(users) == ["equal"] * len(users)
    assert stored.drop_stale([user(f"u{number}") for number in range(1203)]) == [users[0]]


def test_record_in_a_batch_never_replaces_a_newer_one_before_it(stored: FeatureRepository) -> None:
    assert stored.write([user(events_seen=2), user(events_seen=2), user(events_seen=1)]) == [user(events_seen=1)]

    assert stored.read_users(["u"]) == {"u": user(events_seen=2)}


def test_record_of_which_a_row_is_missing_is_unknown_and_behind(stored: FeatureRepository) -> None:
    rows = stored._to_keyed_rows(item())
    stored.online.compare_and_set(stored.config, [rows[:1]])
    assert stored.read_items(["u"]) == {}
    assert stored.compare([item()]) == ["behind"]

    stored.write([item()])
    assert stored.read_items(["u"]) == {"u": item()}


def test_stored_version_is_that_of_the_older_row_and_none_if_a_row_is_missing(stored: FeatureRepository) -> None:
    old, new = (stored._to_keyed_rows(user("u", events_seen=number)) for number in (1, 2))
    half = stored._to_keyed_rows(user("half"))
    stored.online.compare_and_set(stored.config, [[new[0], old[1]]])
    stored.online.compare_and_set(stored.config, [half[:1]])

    versions = stored.stored_versions(UserFeatures, ["u", "half", "nobody"])

    assert versions == {"u": user("u", events_seen=1).version, "half": None, "nobody": None}


def test_concurrent_writes_wait_for_each_other(stored: FeatureRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_read, read = Barrier(2), stored.online.read_versions

    def read_versions(*arguments: Any) -> list[RowVersion | None]:
        found = read(*arguments)
        with suppress(BrokenBarrierError):
            both_have_read.wait(timeout=0.3)
        return found

    monkeypatch.setattr(stored.online, "read_versions", read_versions)
    with ThreadPoolExecutor(2) as writers:
        list(writers.map(lambda events_seen: stored.write([user(events_seen=events_seen)]), (1, 2)))

    assert stored.read_users(["u"]) == {"u": user(events_seen=2)}
