"""Invalid records: their reason codes, and no other kind of error."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reaseq.errors import InvalidRecord
from streams.delivery.messages import ORIGIN_HEADER, Decoder, Message, RawRecord, encode
from streams.delivery.topics import EVENTS, ITEM_FEATURES, ITEMS, USER_FEATURES, Topic

NOW_MS = 1_700_000_000_000
ITEM = {"schema": "item.1", "item_id": "i", "title": "a lantern", "event_time_ms": NOW_MS}
EVENT = {"schema": "event.1", "event_id": "e", "user_id": "u", "item_id": "i", "type": "view", "event_time_ms": NOW_MS}


HISTORY = {"item_ids": ["i"], "types": [1], "times_ms": [1], "event_keys": [7]}
USER = {"schema": "user-features.1", "user_id": "u", "event_time_ms": 1, "events_seen": 1, "history": HISTORY}
CLAIM = {"group": "g", "value": "v", "confidence": 1e308, "reasoner": "r"}
FEATURES = {"schema": "item-features.2", "item_id": "i", "event_time_ms": 1, "listed_ms": 1, "status": "text"}


def decode(topic: Topic, key: bytes | None, value: bytes | None) -> object:
    return Decoder(topic, future_limit_s=300).decode(RawRecord(topic.name, key, value, NOW_MS), NOW_MS).body


def user(**changes: object) -> bytes:
    return json.dumps(USER | {"history": HISTORY | changes}).encode()


def inferred(**fields: object) -> bytes:
    return json.dumps(USER | {"inferred": {"item_ids": ["i"], "confidences": [0.5], **fields}}).encode()


def without(fields: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize(
    ("topic", "key", "value", "reason", "where"),
    [
        (ITEMS, b"i", b"{not json", "malformed_json", ""),
        (ITEMS, b"i", b'{"schema": "item.1", "item_id": "i", "title": "\xff", "event_time_ms": 1}', "malformed_json", "utf-8"),
        (ITEMS, b"i", json.dumps(ITEM | {"schema": ""}).encode(), "unknown_schema", "$.schema"),
        (ITEMS, b"i", b"[" * 100_000, "invalid_field", "array"),
        (ITEMS, b"i", json.dumps(without(ITEM, "title")).encode(), "invalid_field", "title"),
        (ITEMS, b"i", json.dumps(ITEM | {"title": 7}).encode(), "invalid_field", "$.title"),
        (ITEMS, b"i", json.dumps(ITEM | {"title": "t" * 2_000_000}).encode(), "invalid_field", "$.title"),
        (ITEMS, b"i", json.dumps(ITEM | {"price": -1}).encode(), "invalid_field", "$.price"),
        (ITEMS, b"i", json.dumps(ITEM | {"schema": "item.9"}).encode(), "unknown_schema", "item.9"),
        (ITEMS, b"i", json.dumps(without(ITEM, "schema")).encode(), "unknown_schema", "schema"),
        (ITEMS, b"i", json.dumps(EVENT).encode(), "unknown_schema", "event.1"),
        (ITEMS, b"other", json.dumps(ITEM).encode(), "key_mismatch", "other"),
        (ITEMS, None, json.dumps(ITEM).encode(), "missing_key", "items"),
        (ITEMS, b"\xff", json.dumps(ITEM).encode(), "invalid_key", "UTF-8"),
        (EVENTS, b"u" * 129, None, "invalid_key", "129 characters"),
        (ITEMS, b"i", json.dumps(ITEM | {"attributes": {"n" * 1001: ""}}).encode(), "invalid_field", "length <= 1000"),
        (EVENTS, b"u", json.dumps(EVENT | {"type": "sneeze"}).encode(), "invalid_field", "$.type"),
        (EVENTS, b"u", json.dumps(EVENT | {"event_time_ms": NOW_MS + 301_000}).encode(), "from_the_future", "301 s"),
        (ITEMS, b"i", json.dumps(ITEM | {"event_time_ms": NOW_MS + 301_000}).encode(), "from_the_future", "301 s"),
        (ITEMS, b"i", json.dumps(ITEM | {"title": None}).encode(), "invalid_field", "title"),
        (ITEMS, b"i", json.dumps(ITEM | {"attributes": {"size": 5}, "price": None}).encode(), "invalid_field", "attributes"),
        (ITEMS, b"i", json.dumps(ITEM | {"event_time_ms": "1700000000000"}).encode(), "invalid_field", "$.event_time_ms"),
    ],
)
def test_invalid_record_raises_its_reason_and_location(topic: Topic, key: bytes, value: bytes, reason: str, where: str) -> None:
    with pytest.raises(InvalidRecord) as raised:
        decode(topic, key, value)

    assert raised.value.reason == reason
    assert where in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        (1_700_000_000, "event time 1700000000 is in seconds, but milliseconds are expected"),
        (1_700_000_000.5, "event time 1700000000.5 is in seconds, but milliseconds are expected"),
        (1_700_000_000_000_000, "event time 1700000000000000 is in microseconds, but milliseconds are expected"),
        (10**18, "event time 1000000000000000000 is in nanoseconds, but milliseconds are expected"),
        (45_000, "event time 45000 is a day as Excel counts them: write a date"),
        (NOW_MS + 0.5, f"event time {NOW_MS + 0.5} is not a whole number"),
        *((time, f"event time {time} is not between 1990 and 2100") for time in (-NOW_MS, -1, 0, 1, 500_000_000_000, 10**20)),
    ],
)
@pytest.mark.parametrize(("topic", "fields", "key"), [(ITEMS, ITEM, b"i"), (EVENTS, EVENT, b"u")])
def test_time_that_is_not_in_milliseconds_is_named_with_its_unit(
    topic: Topic, fields: dict[str, object], key: bytes, time: float, problem: str
) -> None:
    with pytest.raises(InvalidRecord) as raised:
        decode(topic, key, json.dumps(fields | {"event_time_ms": time}).encode())

    assert (raised.value.reason, str(raised.value)) == ("wrong_time_unit", f"{problem} - at `$.event_time_ms`")


def test_whole_number_may_be_written_with_a_fraction() -> None:
    floats = json.dumps(EVENT | {"event_time_ms": float(NOW_MS), "quantity": 2.5}).encode()

    assert decode(EVENTS, b"u", floats) == decode(EVENTS, b"u", json.dumps(EVENT | {"quantity": 2.5}).encode())


@pytest.mark.parametrize(
    "nulls", [{"price": None}, {"seller_id": None}, {"attributes": None}, {"attributes": {"size": None}}, {"other": None}]
)
def test_null_optional_field_of_an_item_is_an_absent_one(nulls: dict[str, object]) -> None:
    assert decode(ITEMS, b"i", json.dumps(ITEM | nulls).encode()) == decode(ITEMS, b"i", json.dumps(ITEM).encode())


def test_null_optional_field_of_an_event_is_an_absent_one() -> None:
    nulls = {"quantity": None, "retracted": None}

    assert decode(EVENTS, b"u", json.dumps(EVENT | nulls).encode()) == decode(EVENTS, b"u", json.dumps(EVENT).encode())


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (user(types=[1, 1]), "different lengths"),
        (user(times_ms=[]), "different lengths"),
        (user(retracted_ms=[1]), "different lengths"),
        (inferred(confidences=[]), "different lengths"),
        (user(types=[5]), "$.history.types"),
        (user(types=[0]), "$.history.types"),
        (user(item_ids=["i" * 129]), "$.history.item_ids"),
        (user(times_ms=[-1]), "$.history.times_ms"),
        (user(event_keys=[2**63]), "$.history.event_keys"),
        (user(event_keys=[-(2**70)]), "$.history.event_keys"),
        (user(retracted_ms=[1], retracted_keys=[2**70]), "$.history.retracted_keys"),
        (user(erasure_offset=2**70), "$.history.erasure_offset"),
        (inferred(as_of_ms=2**70), "$.inferred.as_of_ms"),
        (inferred(confidences=[1.5]), "$.inferred.confidences"),
    ],
)
def test_user_record_that_neither_the_store_nor_a_model_can_hold_is_invalid(value: bytes, where: str) -> None:
    with pytest.raises(InvalidRecord) as raised:
        decode(USER_FEATURES, b"u", value)

    assert raised.value.reason == "invalid_field" and where in str(raised.value)
    assert decode(USER_FEATURES, b"u", user()) and decode(USER_FEATURES, b"u", inferred())


def test_claim_with_an_impossible_confidence_is_invalid() -> None:
    value = json.dumps(FEATURES | {"knowledge": {"vocabulary": "v", "claims": [CLAIM]}}).encode()

    with pytest.raises(InvalidRecord, match="confidence"):
        decode(ITEM_FEATURES, b"i", value)


def test_tombstone_of_an_item_is_a_message_without_body() -> None:
    assert decode(ITEMS, b"i", None) is None


@pytest.mark.parametrize(
    ("timestamp_ms", "header", "origin_ms"),
    [
        (NOW_MS - 5, None, NOW_MS - 5),
        (NOW_MS, b"7", 7),
        (NOW_MS + 9, None, NOW_MS),  # the producer's clock is ahead
        (0, None, NOW_MS),
        (-1, None, NOW_MS),  # a broker's "no timestamp"
        (NOW_MS, b"0", NOW_MS),
    ],
)
def test_request_without_a_time_counts_from_now(timestamp_ms: int, header: bytes | None, origin_ms: int) -> None:
    headers = ((ORIGIN_HEADER, header),) if header else ()
    raw = RawRecord(EVENTS.name, b"u", None, timestamp_ms, headers, offset=3)

    assert Decoder(EVENTS, 300).decode(raw, NOW_MS) == Message("u", None, origin_ms, 3, timestamp_ms)


def test_event_slightly_ahead_of_the_clock_is_accepted() -> None:
    assert decode(EVENTS, b"u", json.dumps(EVENT | {"event_time_ms": NOW_MS + 299_000}).encode())


@pytest.mark.parametrize("clock_off_s", [-360, 0, 86_400])
def test_time_of_arrival_at_the_broker_decides_what_is_in_the_future(clock_off_s: int) -> None:
    """Whatever the reader's clock says: all readers refuse the same events, and a slow clock buries none."""

    def outcome(event_time_ms: int, broker_time: bool) -> str:
        value = json.dumps(EVENT | {"event_time_ms": event_time_ms}).encode()
        raw = RawRecord(EVENTS.name, b"u", value, NOW_MS, broker_time=broker_time)
        try:
            return str(Decoder(EVENTS, 300).decode(raw, NOW_MS + clock_off_s * 1000).origin_ms)
        except InvalidRecord as error:
            return error.reason

    assert outcome(NOW_MS, broker_time=True) == str(NOW_MS)
    assert outcome(NOW_MS + 299_000, broker_time=True) == str(NOW_MS)
    assert outcome(NOW_MS + 301_000, broker_time=True) == "from_the_future"
    # A producer may claim any time, so its timestamp changes nothing.
    assert (outcome(NOW_MS, broker_time=False) == "from_the_future") == (clock_off_s < -300)


@pytest.mark.parametrize(
    ("header", "origin_ms"), [(b"5", 5), (b"0", NOW_MS), (b"soon", NOW_MS), (f"{NOW_MS + 1}".encode(), NOW_MS)]
)
def test_origin_is_that_of_the_header_but_not_after_now(header: bytes, origin_ms: int) -> None:
    record = RawRecord(ITEMS.name, b"i", json.dumps(ITEM).encode(), NOW_MS, ((ORIGIN_HEADER, b"7"), (ORIGIN_HEADER, header)))

    assert Decoder(ITEMS, future_limit_s=300).decode(record, NOW_MS).origin_ms == origin_ms


@given(key=st.binary(max_size=20), value=st.binary(max_size=200))
def test_any_bytes_decode_to_a_message_or_raise_invalid_record(key: bytes, value: bytes) -> None:
    try:
        decode(ITEMS, key, value)
    except InvalidRecord as error:
        assert error.reason


@given(title=st.text(min_size=1, max_size=1000), price=st.none() | st.floats(0, 1e6))
def test_encoded_item_decodes_to_itself(title: str, price: float | None) -> None:
    from reaseq.records import Item

    item = Item(item_id="i", title=title, price=price, event_time_ms=NOW_MS)

    assert Decoder(ITEMS, 300).decode(encode(item, NOW_MS), int(time.time() * 1000)).body == item
