"""Records as foreign producers write them: odd headers, keys and values, and what becomes of each.

tests/integration/test_kafka.py sends such records, and every compression codec, through a real broker.
"""

import json
from collections.abc import Sequence

import pytest

from streams.delivery.dead_letters import DeadLetter
from streams.delivery.delivery import Delivery
from streams.delivery.messages import ORIGIN_HEADER, Message, RawRecord
from streams.delivery.stage import BatchPolicy, Effects
from streams.delivery.topics import EVENTS, ITEMS, Topic
from streams.delivery.tracing import HEADER, trace_id
from tests.fakes.delivery import Journal

NOW_MS = 1_700_000_000_000
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PROCESSED = "processed"


class Recorder:
    """A stage that keeps its messages."""

    name, batch = "recorder", BatchPolicy(10, 0)

    def __init__(self, source: Topic) -> None:
        self.source = source
        self.messages: list[Message] = []

    async def process(self, batch: Sequence[Message]) -> Effects:
        self.messages += batch
        return Effects()


def event(user_id: str = "u", **changes: object) -> bytes:
    fields = {"schema": "event.1", "event_id": "e", "user_id": user_id, "item_id": "007", "type": "view"}
    return json.dumps(fields | {"event_time_ms": NOW_MS} | changes).encode()


def item(item_id: str = "i", **changes: object) -> bytes:
    fields = {"schema": "item.1", "item_id": item_id, "title": "Rose soap", "event_time_ms": NOW_MS}
    return json.dumps(fields | changes).encode()


async def deliver(raw: RawRecord) -> tuple[str, Message | DeadLetter]:
    """`PROCESSED` and the message, or the reason and the dead letter."""
    stage, journal = Recorder(EVENTS if raw.topic == EVENTS.name else ITEMS), Journal()
    await Delivery(stage, journal, journal, 300).handle([raw])
    if stage.messages:
        assert not journal.dead_letters
        return PROCESSED, stage.messages[0]
    [produced] = journal.dead_letters
    dead_letter = DeadLetter.from_record(produced)
    assert (dead_letter.record.key, dead_letter.record.value, dead_letter.record.headers) == (raw.key, raw.value, raw.headers)
    return dead_letter.reason, dead_letter


NULL: bytes = None  # type: ignore[assignment]  # a header's value may be null, whatever the libraries' types say


@pytest.mark.parametrize(
    ("headers", "origin_ms", "trace"),
    [
        (((HEADER, NULL), (ORIGIN_HEADER, NULL)), NOW_MS, ""),
        (((HEADER, b"\xff\xfe"), (ORIGIN_HEADER, b"\xb2\xb3")), NOW_MS, ""),
        (((ORIGIN_HEADER, b"12"), (ORIGIN_HEADER, b"-5"), ("ключ", "значение".encode())), NOW_MS, ""),
        (((ORIGIN_HEADER, b"-5"), (ORIGIN_HEADER, b"12")), 12, ""),
        (((ORIGIN_HEADER, "١٢".encode()),), NOW_MS, ""),
        (((ORIGIN_HEADER, b"9" * 5000), ("", b""), ("x", b"y" * 200_000)), NOW_MS, ""),
        (((HEADER, f"00-{TRACE_ID}-b7ad6b7169203331-01".encode()),), NOW_MS, TRACE_ID),
        (((HEADER, f"ff-{TRACE_ID}-b7ad6b7169203331-01".encode()),), NOW_MS, ""),
        (((HEADER, b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01"),), NOW_MS, ""),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
async def test_odd_headers_cost_no_record(
    headers: tuple[tuple[str, bytes], ...], origin_ms: int, trace: str, broken: bool
) -> None:
    outcome, found = await deliver(RawRecord(EVENTS.name, b"u", b"{" if broken else event(), NOW_MS, headers))

    assert outcome == ("malformed_json" if broken else PROCESSED)
    assert isinstance(found, DeadLetter) or found.origin_ms == origin_ms
    assert trace_id(headers) == trace


@pytest.mark.parametrize(
    ("topic", "key", "value", "outcome"),
    [
        (EVENTS, None, event(), "missing_key"),
        (EVENTS, b"", event(), "missing_key"),
        (EVENTS, b"\xff\xfe", event(), "invalid_key"),
        (EVENTS, b"u" * 129, event("u" * 129), "invalid_key"),
        (EVENTS, b'"u"', event(), "key_mismatch"),
        (EVENTS, b" u", event(), "key_mismatch"),
        (EVENTS, b"u\n", event(), "key_mismatch"),
        (ITEMS, b'{"item_id":"i"}', item(), "key_mismatch"),
        (ITEMS, (5).to_bytes(4, "big"), item("5"), "key_mismatch"),
        (ITEMS, "é".encode(), item("e\u0301"), "key_mismatch"),
        *(
            (ITEMS, item_id.encode(), item(item_id), PROCESSED)
            for item_id in ("slash/../x?y#z %2F", "nul-\0-x", "new\nline", "ünï-\u200b", "💥", "-", "007", "🧼" * 128)
        ),
    ],
)
async def test_key_is_the_entitys_id_byte_for_byte(topic: Topic, key: bytes | None, value: bytes, outcome: str) -> None:
    assert (await deliver(RawRecord(topic.name, key, value, NOW_MS)))[0] == outcome


@pytest.mark.parametrize(
    ("topic", "value", "outcome"),
    [
        (EVENTS, b"  \n" + event() + b"\n", PROCESSED),
        (EVENTS, b"\xef\xbb\xbf" + event(), "malformed_json"),
        (EVENTS, b"\x00\x00\x00\x00\x05" + event(), "malformed_json"),
        (EVENTS, b"", "malformed_json"),
        (EVENTS, event() + event(), "malformed_json"),
        (EVENTS, event().decode().encode("utf-16"), "malformed_json"),
        (EVENTS, b"null", "invalid_field"),
        (EVENTS, json.dumps(event().decode()).encode(), "invalid_field"),
        (EVENTS, b"[" + event() + b"]", "invalid_field"),
        (EVENTS, json.dumps({"schema": {"type": "struct"}, "payload": json.loads(event())}).encode(), "unknown_schema"),
        (EVENTS, event(schema=None), "unknown_schema"),
        (EVENTS, event(item_id=5), "invalid_field"),
        (EVENTS, event(type="View"), "invalid_field"),
        (EVENTS, event(quantity="1"), "invalid_field"),
        (EVENTS, event(event_time_ms="2024-01-01T00:00:00Z"), "invalid_field"),
        (EVENTS, event(foo={"a": [1]}, quantity=1e308), PROCESSED),
        (EVENTS, event(event_time_ms=float(NOW_MS), quantity=2), PROCESSED),
        (EVENTS, event(quantity=None, retracted=None), PROCESSED),
        (ITEMS, item(price="3.50"), "invalid_field"),
        (ITEMS, item(price=10**400), "invalid_field"),
        (ITEMS, item(attributes={"size": 5}), "invalid_field"),
        (ITEMS, item(attributes={"size": ["S", "M"]}), "invalid_field"),
        (ITEMS, item(attributes=[]), "invalid_field"),
        (ITEMS, item(price=1e308), PROCESSED),
        (ITEMS, item(price=None, seller_id=None, attributes=None), PROCESSED),
        (ITEMS, item(attributes={"size": None, "color": "red"}), PROCESSED),
    ],
)
async def test_value_is_read_if_it_has_one_meaning(topic: Topic, value: bytes, outcome: str) -> None:
    key = b"u" if topic is EVENTS else b"i"

    assert (await deliver(RawRecord(topic.name, key, value, NOW_MS)))[0] == outcome


@pytest.mark.parametrize("timestamp_ms", [-1, 0, 1, NOW_MS, 2**62])
async def test_timestamp_of_a_foreign_producer_costs_no_record(timestamp_ms: int) -> None:
    outcome, message = await deliver(RawRecord(EVENTS.name, b"u", event(), timestamp_ms))

    assert outcome == PROCESSED and isinstance(message, Message) and message.origin_ms > 0
