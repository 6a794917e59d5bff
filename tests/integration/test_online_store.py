"""One contract for all online stores: SQLite (embedded profile), one Redis, and three of them (production profile)."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, permutations
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import numpy as np
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from redis import Redis

from features import definitions as views
from features import row_format
from features.archive import Archive
from features.packed_store import entity_key, parse_entity_id
from features.redis_shard import WRITE_CHUNK_RECORDS
from features.repository import FeatureRepository, feast_variables, profile_file
from features.row_format import REVISION, is_intact, pack, read_version, unpack, unpack_bytes
from infra import process
from infra.redis import start_redis
from reaseq.errors import CorruptRows, NewerRowFormat, StoreUnavailable
from reaseq.records import History, ItemFeatures, UserFeatures
from reaseq.settings import Settings
from tests.shards import running_shards

pytestmark = pytest.mark.integration

WRITERS, ROUNDS, KEYS = 4, 40, 12
ROW_WITHOUT_FORMAT = "00059b08c1fa400000000000000000030000c7f790b380a8e8b7be43000000031201786d6315cc000000022003"


SHARDS = {"SQLite": 0, "one Redis": 1, "three shards": 3}


@pytest.fixture(scope="module", params=SHARDS)
def repository(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureRepository]:
    """A repository on a real store, applied to Feast."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("store"))
    with running_shards(settings, SHARDS[request.param]):
        repository = FeatureRepository(settings)
        repository.apply()
        yield repository


@pytest.fixture(autouse=True)
def empty_store(repository: FeatureRepository) -> None:
    """Each test starts with an empty store."""
    clear(repository)


def clear(repository: FeatureRepository) -> None:
    repository.online.update(repository.config, views.VIEWS, [], [], [], partial=True)
    repository.online.update(repository.config, [], views.VIEWS, [], [], partial=True)


def item(item_id: str, time_ms: int = 1000, **changes: object) -> ItemFeatures:
    fields = {"title": item_id, "status": "text", "vector": np.full(4, time_ms % 7, np.float16).tobytes()} | changes
    return ItemFeatures(item_id=item_id, event_time_ms=time_ms, listed_ms=1, **fields)  # type: ignore[arg-type]


def user(user_id: str, events_seen: int) -> UserFeatures:
    return UserFeatures(user_id=user_id, event_time_ms=1000, events_seen=events_seen, history=History())


def test_record_is_read_as_it_was_written(repository: FeatureRepository) -> None:
    record = item("a", price=2.5, attributes={"color": "red"}, content="c", fingerprint="f", space_id="s")

    repository.write([record])

    assert repository.read_items(["a", "nobody"]) == {"a": record}


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_newest_record_wins_in_any_order(repository: FeatureRepository, order: tuple[int, ...]) -> None:
    records = [item("a", 900, status="reasoned"), item("a", 1000), item("a", 1000, status="reasoned"), item("a", 800)]

    for index in order:
        repository.write([records[index]])

    assert repository.read_items(["a"]) == {"a": records[2]}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_newest_record_of_a_batch_wins(repository: FeatureRepository, order: tuple[int, ...]) -> None:
    records = [item("a", 900), item("a", 1000), item("a", 1100)]

    repository.write([records[index] for index in order])

    assert repository.read_items(["a"])["a"].event_time_ms == 1100


def test_first_view_whose_versions_differ_decides(repository: FeatureRepository) -> None:
    old, new = (repository._to_keyed_rows(item("a", time_ms)) for time_ms in (900, 1000))
    stored = [old[0], new[1]]
    repository.online.compare_and_set(repository.config, [stored])

    assert repository.online.compare_and_set(repository.config, [old, stored]) == [True, False]
    rows = repository.online.get_all(repository.config, [(row.table, [row.key]) for row in stored])
    assert rows == [[row.row] for row in stored]
    assert repository.online.compare_and_set(repository.config, [new, [new[0], old[1]]]) == [False, True]


def test_tie_is_decided_by_content_in_any_order(repository: FeatureRepository) -> None:
    one, other = item("a", title="one"), item("a", title="other")
    outcomes = []
    for pair in ((one, other), (other, one)):
        clear(repository)
        repository.write([pair[0]])
        repository.write([pair[1]])
        outcomes.append(repository.read_items(["a"])["a"].title)

    assert outcomes[0] == outcomes[1]


def test_drop_stale_returns_the_records_that_are_not_older_than_the_store(repository: FeatureRepository) -> None:
    repository.write([item("a", 1000), user("a", events_seen=3)])
    older, equal, newer = item("a", 999), item("a", 1000), item("a", 1000, status="reasoned")
    unknown = item("b", 1)

    kept = repository.drop_stale([older, equal, unknown, newer, user("a", events_seen=2), user("a", events_seen=4)])

    assert kept == [equal, unknown, newer, user("a", events_seen=4)]


def test_concurrent_writers_leave_the_newest_record(repository: FeatureRepository) -> None:
    context = multiprocessing.get_context("fork")
    settings = _build_settings(repository)
    writers = [context.Process(target=_write_rounds, args=(settings, number)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
        assert writer.exitcode == 0

    stored = repository.read_items([f"k{key}" for key in range(KEYS)])

    assert {record.event_time_ms for record in stored.values()} == {ROUNDS * WRITERS}
    assert len(stored) == KEYS


def test_record_is_visible_in_all_views_or_in_none(repository: FeatureRepository) -> None:
    """If only one view were written, an item could have status `reasoned` without its knowledge, and would never get it."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    writer = context.Process(target=_write_until, args=(_build_settings(repository), stop))
    writer.start()
    item_views = [views.item_representation, views.item_knowledge]
    keys = [repository._to_keyed_rows(item(f"k{key}"))[0].key for key in range(KEYS)]
    seen: set[tuple[object, ...]] = set()
    while len(seen) <= 3 and writer.is_alive():
        both = repository.online.get_all(repository.config, [(view, keys) for view in item_views])
        seen |= {tuple(row and read_version(row)[:2] for row in pair) for pair in zip(*both, strict=True)}
    stop.set()
    writer.join()

    assert len(seen) > 3 and writer.exitcode == 0
    assert all(representation == knowledge for representation, knowledge in seen)


def test_partially_written_record_is_completed_on_redelivery(repository: FeatureRepository) -> None:
    record = item("a", 1000, status="reasoned", fingerprint="f")
    repository.write([item("a", 900)])
    representation, _ = repository._to_keyed_rows(record)
    repository.online.compare_and_set(repository.config, [[representation]])
    assert repository.compare([record]) == ["behind"]

    assert repository.write([record]) == []
    assert repository.compare([record]) == ["equal"]


def damage(repository: FeatureRepository, record: UserFeatures, change: Callable[[bytes], bytes]) -> None:
    """Change the stored history of a user in place."""
    keyed, _ = repository._to_keyed_rows(record)
    [row] = repository.online.get(repository.config, keyed.table, [keyed.key])
    assert row
    repository.online.replace(repository.config, [(keyed._replace(row=change(row)), row)])


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda row: row[:10],
    lambda row: row[:-1],
    lambda row: row[:-1] + bytes([row[-1] ^ 1]),
    lambda row: row[:30] + b"\xff" * (len(row) - 30),
    lambda row: b"another value",
    lambda row: b"",
    lambda row: b"\x40" + row[1:],  # of a time that no datetime can hold
    lambda row: row[:7] + bytes([row[7] ^ 1]) + row[8:],  # a microsecond off
    lambda row: row[:8] + bytes([0, 31]) + row[10:],  # far ahead of every other revision
]


@pytest.mark.parametrize("change", DAMAGES)
def test_corrupt_row_affects_its_entity_alone_and_no_worker_builds_on_it(
    repository: FeatureRepository, change: Callable[[bytes], bytes]
) -> None:
    users = [user(f"u{number}", events_seen=3) for number in range(3)]
    repository.write(users)
    damage(repository, users[1], change)
    worker = FeatureRepository(repository.settings, require_complete=True)
    with worker.rebuilding():
        pass

    assert repository.read_users(["u0", "u1", "u2"]) == {"u0": users[0], "u2": users[2]}
    with pytest.raises(CorruptRows) as raised:
        worker.read_users(["u0", "u1", "u2"])
    assert raised.value.ids == ["u1"]

    worker.replace_corrupt([users[1]])
    assert worker.read_users(["u0", "u1", "u2"]) == {record.user_id: record for record in users}
    worker.replace_corrupt([user("u0", events_seen=2)])
    assert worker.read_users(["u0"]) == {"u0": users[0]}, "an intact row stays"


def test_row_of_another_entity_or_view_is_corrupt(repository: FeatureRepository) -> None:
    users = [user(f"u{number}", events_seen=3) for number in range(2)]
    (history, inferred), (other_history, _) = rows = [repository._to_keyed_rows(record) for record in users]
    worker = FeatureRepository(repository.settings, require_complete=True)
    with worker.rebuilding():
        pass

    for moved in (other_history, inferred):
        clear(repository)
        repository.online.compare_and_set(repository.config, [rows[1], [history._replace(row=moved.row), inferred]])

        assert repository.read_users(["u0", "u1"]) == {"u1": users[1]}
        with pytest.raises(CorruptRows):
            worker.read_users(["u0", "u1"])
        worker.replace_corrupt([users[0]])
        assert worker.read_users(["u0"]) == {"u0": users[0]}


@pytest.mark.parametrize("missing", [0, 1])
def test_row_without_its_other_half_is_corrupt_and_not_a_new_entity(repository: FeatureRepository, missing: int) -> None:
    record = user("u", events_seen=3)
    kept = [row for index, row in enumerate(repository._to_keyed_rows(record)) if index != missing]
    repository.online.compare_and_set(repository.config, [kept])
    worker = FeatureRepository(repository.settings, require_complete=True)
    with worker.rebuilding():
        pass

    assert repository.read_users(["u"]) == {}
    with pytest.raises(CorruptRows):
        worker.read_users(["u"])
    worker.replace_corrupt([record])
    assert worker.read_users(["u"]) == {"u": record}


def test_key_that_no_entity_has_ends_no_scan(repository: FeatureRepository) -> None:
    keyed, _ = repository._to_keyed_rows(user("u", events_seen=3))
    foreign = [[keyed._replace(key=key)] for key in (b"", b"junk", keyed.key + b"\xff", keyed.key[:-1] + b"\xff")]
    repository.online.compare_and_set(repository.config, [[keyed], *foreign])

    assert list(repository.scan_user_ids()) == ["u"]


@contextmanager
def release(row_format_number: int) -> Iterator[None]:
    """Run the block as a release that writes rows of that format."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_format, "FORMAT", row_format_number)
        yield


def test_writer_waits_for_rows_of_a_newer_release_and_leaves_them_as_they_are(repository: FeatureRepository) -> None:
    worker = FeatureRepository(repository.settings, require_complete=True)
    with worker.rebuilding():
        pass
    with release(row_format.FORMAT + 1):
        repository.write([user("u", events_seen=3), item("a")])
    rows = dict(repository.online.scan(repository.config, views.user_history))

    for use in (
        lambda: worker.read_users(["u"]),
        lambda: worker.read_items(["a"]),
        lambda: worker.drop_stale([user("u", events_seen=4)]),
        lambda: worker.write([user("u", events_seen=4)]),
    ):
        with pytest.raises(NewerRowFormat):
            use()
    assert worker.write([user("u", events_seen=2)]) == [user("u", events_seen=2)]  # stale in any format
    assert worker.compare([user("u", events_seen=3)]) == ["equal"]  # the same record, written differently
    assert dict(repository.online.scan(repository.config, views.user_history)) == rows
    assert repository.read_users(["u"]) == {"u": user("u", events_seen=3)}  # who writes nothing back reads what it knows

    with release(row_format.FORMAT + 1):
        assert worker.read_users(["u"]) == {"u": user("u", events_seen=3)}
        assert worker.write([user("u", events_seen=4)]) == []


@pytest.mark.parametrize("newer_view", [0, 1])
def test_row_of_a_newer_release_in_any_view_is_left_as_it_is(repository: FeatureRepository, newer_view: int) -> None:
    rows = repository._to_keyed_rows(user("u", events_seen=3))
    with release(row_format.FORMAT + 1):
        rows[newer_view] = repository._to_keyed_rows(user("u", events_seen=3))[newer_view]
    repository.online.compare_and_set(repository.config, [rows])

    with pytest.raises(NewerRowFormat):
        repository.write([user("u", events_seen=4)])
    assert repository.online.get(repository.config, rows[newer_view].table, [rows[0].key]) == [rows[newer_view].row]


def test_newer_release_takes_over_the_rows_of_an_older_one(repository: FeatureRepository) -> None:
    repository.write([user("u", events_seen=3)])

    with release(row_format.FORMAT + 1):
        assert repository.compare([user("u", events_seen=3)]) == ["equal"]
        assert repository.write([user("u", events_seen=3)]) == []  # as a rebuild does
        newer = row_format.FORMAT

    (row,) = dict(repository.online.scan(repository.config, views.user_history)).values()
    assert read_version(row).format == newer


def _build_settings(repository: FeatureRepository) -> Settings:
    state = Path(repository.config.registry.path).parent
    settings = Settings(state_dir=state)
    if "Redis" in repository.config.online_store.type:
        settings.store.profile = "production"
        settings.store.redis_url = repository.config.online_store.url
    return settings


def _write_until(settings: Settings, stop: EventType) -> None:
    repository = FeatureRepository(settings)
    for time_ms in count(1):
        if stop.is_set():
            break
        repository.write([item(f"k{key}", time_ms) for key in range(KEYS)])
    os._exit(0)


def _write_rounds(settings: Settings, writer: int) -> None:
    repository = FeatureRepository(settings)
    times = [round_ * WRITERS + writer + 1 for round_ in range(ROUNDS)]
    np.random.default_rng(writer).shuffle(times)
    for time_ms in times:
        repository.write([item(f"k{key}", time_ms) for key in range(KEYS)])
    os._exit(0)


def test_feature_missing_in_an_old_row_is_absent(repository: FeatureRepository) -> None:
    key = entity_key(views.ITEM_KEY, "a")
    time = datetime(2020, 1, 1, tzinfo=UTC)
    repository.online.online_write_batch(
        repository.config, views.item_representation, [(key, {"title": Value(string_val="old")}, time, None)], None
    )

    ((read_time, values),) = repository.online.online_read(repository.config, views.item_representation, [key])

    assert read_time == time
    assert values == {"title": Value(string_val="old")}


def test_vectors_are_read_into_one_array(repository: FeatureRepository) -> None:
    repository.write([item("a", 1), item("b", 2)])
    keys = [entity_key(views.ITEM_KEY, item_id) for item_id in ("b", "nobody", "a")]

    values, found = repository.online.online_read_numpy(
        repository.config, views.item_representation, keys, "vector", np.float16
    )

    assert found.tolist() == [True, False, True]
    assert values.tolist() == [[2.0] * 4, [0.0] * 4, [1.0] * 4]


def test_scan_finds_every_entity(repository: FeatureRepository) -> None:
    repository.write([item(f"item {number} ü*[x]") for number in range(1200)])

    ids = sorted(repository.scan_ids(views.item_representation))

    assert ids == sorted(f"item {number} ü*[x]" for number in range(1200))
    assert all(parse_entity_id(key) in ids for key, _ in repository.online.scan(repository.config, views.item_knowledge))


def test_feast_online_read_works(repository: FeatureRepository) -> None:
    repository.write([item("a", price=2.5)])

    read = repository.feast.get_online_features(
        features=["item_representation:title", "item_representation:price"],
        entity_rows=[{"item_id": "a"}, {"item_id": "nobody"}],
    ).to_dict()

    assert read == {"item_id": ["a", "nobody"], "title": ["a", None], "price": [2.5, None]}


@pytest.mark.filterwarnings("ignore")  # warnings of Feast and ibis
def test_feast_materialize_loads_the_archive_and_keeps_newer_records(repository: FeatureRepository) -> None:
    archive = Archive(repository.settings.archive_dir, repository.vocabulary)
    archive.create()
    old, new = item("from archive", 1_000), item("newer online", 1_000)
    archive.append([old, new])
    repository.write([item("newer online", 2_000)])

    repository.feast.materialize(datetime(1969, 12, 31, tzinfo=UTC), datetime(1970, 1, 2, tzinfo=UTC))

    items = repository.read_items(["from archive", "newer online"])
    assert items["from archive"].event_time_ms == 1_000
    assert items["newer online"].event_time_ms == 2_000


def test_feast_command_line_works(repository: FeatureRepository) -> None:
    settings = _build_settings(repository)
    command = [sys.executable, "-m", "reaseq", "feast", "feature-views", "list"]
    env = {
        **os.environ,
        **feast_variables(settings),
        "REASEQ_STATE_DIR": str(settings.state_dir),
        "REASEQ_STORE__PROFILE": settings.store.profile,
        "REASEQ_STORE__REDIS_URL": settings.store.redis_url.get_secret_value(),
    }

    listed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    assert profile_file(settings).exists()
    assert "user_history" in listed.stdout, listed.stderr


def test_unreachable_store_raises_store_unavailable(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    settings.store.profile = "production"
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{process.free_port()}/0")
    repository = FeatureRepository(settings)

    with pytest.raises(StoreUnavailable):
        repository.read_items(["a"])
    with pytest.raises(StoreUnavailable):
        repository.write([item("a")])


@pytest.fixture(scope="module")
def redis_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FeatureRepository, Redis]]:
    """A complete store on Redis, required to be so, and a client."""
    state, port = tmp_path_factory.mktemp("redis-only"), process.free_port()
    settings = Settings(state_dir=state)
    settings.store.profile = "production"
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{port}/0")
    start_redis(settings.run_dir, state / "redis", port)
    repository = FeatureRepository(settings, require_complete=True)
    with repository.rebuilding():
        pass
    with Redis(port=port) as client:
        yield repository, client
    process.stop(settings.run_dir, "redis")


def test_cut_row_is_older_than_any_other(redis_store: tuple[FeatureRepository, Redis]) -> None:
    store, client = redis_store
    store.write([user("cut", events_seen=3)])
    for key in client.scan_iter("reaseq:user_*cut"):
        client.set(key, b"cut")

    assert store.write([user("cut", events_seen=1)]) == []
    assert store.read_users(["cut"]) == {"cut": user("cut", events_seen=1)}


def test_records_are_written_to_a_redis_that_has_forgotten_the_script(redis_store: tuple[FeatureRepository, Redis]) -> None:
    store, client = redis_store
    records = [user(f"many-{number}", events_seen=1) for number in range(WRITE_CHUNK_RECORDS + 1)]
    client.script_flush()

    assert store.write(records) == []
    assert len(store.read_users([record.user_id for record in records])) == len(records)


def test_key_of_another_type_is_a_missing_row(redis_store: tuple[FeatureRepository, Redis]) -> None:
    store, client = redis_store
    store.write([user("u", events_seen=3), user("v", events_seen=3)])
    for key in client.scan_iter("reaseq:user_*u"):
        client.delete(key)
        client.hset(key, "field", "value")

    assert store.read_users(["u", "v"]).keys() == {"v"}
    assert store.drop_stale([user("u", events_seen=1)]) == [user("u", events_seen=1)]
    assert store.write([user("u", events_seen=4), user("v", events_seen=4)]) == []
    assert store.read_users(["u"]) == {"u": user("u", events_seen=4)}


@pytest.mark.parametrize("marker", [b"", b"garbage", b"\xff \xfe", b"0" * 40 + b" x", None])
def test_marker_that_no_rebuild_has_set_is_none(redis_store: tuple[FeatureRepository, Redis], marker: bytes | None) -> None:
    store, client = redis_store
    assert store.is_complete()
    key = "reaseq::whole"
    assert client.delete(key)
    if marker is None:
        client.rpush(key, "of another type")
    else:
        client.set(key, marker)

    assert not store.is_complete()
    with store.rebuilding():
        pass
    assert store.is_complete()


def test_hanging_redis_fails_within_its_timeout(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    settings.store.profile = "production"
    settings.store.redis_timeout_s = 1.0
    port = process.free_port()
    settings.store.redis_url = type(settings.store.redis_url)(f"redis://127.0.0.1:{port}/0")
    redis = start_redis(settings.run_dir, tmp_path / "redis", port)
    repository = FeatureRepository(settings)
    try:
        for connection in ("new", "used before"):
            os.killpg(redis.pid, signal.SIGSTOP)
            started_s = time.monotonic()
            with pytest.raises(StoreUnavailable):
                repository.read_items(["a"])
            elapsed_s = time.monotonic() - started_s
            os.killpg(redis.pid, signal.SIGCONT)

            assert 1.0 <= elapsed_s < 1.8, connection
            assert repository.read_items(["a"]) == {}
    finally:
        process.stop(settings.run_dir, "redis")


def test_row_of_before_there_were_formats_is_intact_and_older_than_the_same_row_in_any_format() -> None:
    row, values = bytes.fromhex(ROW_WITHOUT_FORMAT), {"a": Value(string_val="x"), REVISION: Value(int64_val=3)}

    assert read_version(row).format == 1
    assert is_intact(row, b"owner") and not is_intact(row[:-1] + b"?", b"owner")
    assert unpack(row, ["a", REVISION]) == values
    versions = [read_version(row)]
    for number in (row_format.FORMAT, 32):  # the highest
        with release(number):
            same = pack(values, datetime(2020, 1, 1, tzinfo=UTC), b"owner")
        assert is_intact(same, b"owner") and not is_intact(same, b"another owner")
        versions.append(read_version(same))
    assert [version.format for version in versions] == [1, row_format.FORMAT, 32]
    assert versions == sorted(versions) and max(versions[-1]) < 2**53


def test_equal_rows_pack_to_equal_bytes() -> None:
    values = {"b": Value(int64_val=1), "a": Value(string_val="x"), REVISION: Value(int64_val=3)}
    time = datetime(2020, 1, 1)

    row = pack(values, time, b"owner")

    assert row == pack(dict(reversed(values.items())), time.replace(tzinfo=UTC), b"owner")
    assert read_version(row).revision == 3
    assert read_version(row).event_time == time.replace(tzinfo=UTC)
    assert read_version(pack(values, time + timedelta(microseconds=1), b"owner")) > read_version(row)
    assert unpack(row, ["a", "c"]) == {"a": Value(string_val="x")}
    assert unpack_bytes(pack({"v": Value(bytes_val=b"x" * 300)}, time, b""), "v") == b"x" * 300
