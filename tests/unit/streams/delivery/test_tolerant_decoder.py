"""What readers without dead letters do with invalid records of a topic."""

import msgspec
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from reaseq.records import ItemFeatures
from streams.delivery.messages import RawRecord, encode
from streams.delivery.tolerant_decoder import TolerantDecoder
from streams.delivery.topics import EVENTS, ITEM_FEATURES, Topic
from streams.item_table_feed import ItemTableFeed
from tests.fakes.catalog import build_table, item

GOOD = encode(item(1), 5)
NEWER = msgspec.json.encode(msgspec.to_builtins(item(2)) | {"schema": "item-features.3"})


def skipped(reason: str, topic: Topic = ITEM_FEATURES) -> float:
    return REGISTRY.get_sample_value("reaseq_skipped_records_total", {"topic": topic.name, "reason": reason}) or 0.0


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (GOOD._replace(value=(GOOD.value or b"")[:-9]), "malformed_json"),
        (GOOD._replace(value=b"\xff\xfe"), "malformed_json"),
        (GOOD._replace(value=b'{"schema":"item-features.2","another":' + b"[" * 100_000), "malformed_json"),
        (GOOD._replace(value=b'{"schema":"item-features.2","item_id":5,"another":' + b"[" * 100_000), "invalid_field"),
        (GOOD._replace(value=NEWER), "unknown_schema"),
        (GOOD._replace(value=b'{"schema":"item-features.2","item_id":"i1"}'), "invalid_field"),
        (GOOD._replace(key=b"another"), "key_mismatch"),
        (GOOD._replace(key=None), "missing_key"),
        (GOOD._replace(key=b"\xff"), "invalid_key"),
    ],
)
def test_invalid_record_is_skipped_counted_and_logged_once_for_all_alike(bad: RawRecord, reason: str) -> None:
    before = skipped(reason)
    with capture_logs() as logs:
        messages = TolerantDecoder(ITEM_FEATURES).decode([bad._replace(offset=7), GOOD, bad])

    assert [message.body for message in messages] == [item(1)]
    assert skipped(reason) - before == 2
    [line] = logs
    assert (line["event"], line["reason"], line["records"], line["offset"]) == ("records_skipped", reason, 2, 7)


def test_event_from_the_future_is_skipped() -> None:
    value = b'{"schema":"event.1","event_id":"e","user_id":"u","item_id":"i","type":"view","event_time_ms":4000000000000}'

    assert not TolerantDecoder(EVENTS, 300.0).decode([RawRecord(EVENTS.name, b"u", value, 0)])


def test_item_table_gets_what_it_can_hold_and_counts_the_rest() -> None:
    table, before = build_table(), skipped("space_mismatch")
    records: list[ItemFeatures] = [item(1), item(2, space_id="other"), item(3)]

    arrived: list[str] = []
    feed = ItemTableFeed(table, arrived.extend)

    feed.apply_records([*(encode(record, 5) for record in records), GOOD._replace(value=None)])

    assert arrived == ["i1", "i3"] and not table.knows("i2")
    assert skipped("space_mismatch") - before == 1


def test_log_has_no_user_id() -> None:
    with capture_logs() as logs:
        TolerantDecoder(EVENTS).decode([RawRecord(EVENTS.name, b"user-7", b'{"user_id":"user-8"}', 1, offset=3)])

    assert "user-" not in repr(logs) and logs[0]["offset"] == 3
