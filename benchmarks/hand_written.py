"""The job of the history stage as a loop written by hand for this case alone: the yardstick of what the contract costs.

It decodes each event, reads the stored history, folds the events in, produces the record and waits until it is confirmed,
compares and sets, and commits. It has the same effect on a clean backlog, and leaves out what makes a contract: dead letters,
retractions and erasure requests, restoring what a store lost, superseded records, rebalances, traces and metrics. Its rows are
smaller than the store's, because one row holds what Feast keeps in two views.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from reaseq.records import Event
from reaseq.settings import Settings
from streams.delivery.topics import EVENTS, USER_FEATURES
from streams.runtime.faust_runtime import COMMIT_INTERVAL_S

ORDER_BYTES = 16  # event time and events seen, by which the newer row wins
FETCH_WAIT_MS = 50
SET_IF_NEWER = """
for index, key in ipairs(KEYS) do
  if redis.call('GETRANGE', key, 0, 15) < string.sub(ARGV[index], 1, 16) then redis.call('SET', key, ARGV[index]) end
end
"""

Behavior = tuple[int, str, str, str]  # time, event id, item id, type

_event = msgspec.json.Decoder(Event)
_behaviors = msgspec.msgpack.Decoder(list[Behavior])
_to_row = msgspec.msgpack.Encoder()


class Record(msgspec.Struct):
    """What it produces: a history with its order."""

    user_id: str
    event_time_ms: int
    events_seen: int
    history: list[Behavior]


async def run(settings: Settings, group: str, metered: Callable[[int], AbstractContextManager[None]]) -> None:
    """Fold events into histories until cancelled. `metered` is entered for each batch, with its size."""
    client = redis.asyncio.Redis.from_url(settings.store.redis_url.get_secret_value())
    servers, limit = settings.kafka.bootstrap_servers, settings.kafka.history_batch_limit_records
    consumer = AIOKafkaConsumer(
        EVENTS.name, bootstrap_servers=servers, group_id=group, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True, compression_type="lz4", linger_ms=5)
    await asyncio.gather(consumer.start(), producer.start())
    set_if_newer = await client.script_load(SET_IF_NEWER)
    committed_s = time.monotonic()
    while True:
        fetched = await consumer.getmany(timeout_ms=FETCH_WAIT_MS, max_records=limit)
        if batch := [record for partition in fetched.values() for record in partition]:
            with metered(len(batch)):
                await _process(batch, client, set_if_newer, producer, settings.behavior.history_limit_events)
        if time.monotonic() - committed_s >= COMMIT_INTERVAL_S:
            await consumer.commit()
            committed_s = time.monotonic()


async def _process(
    batch: list[ConsumerRecord], client: Any, set_if_newer: str, producer: AIOKafkaProducer, limit_events: int
) -> None:
    by_user: dict[bytes, list[Event]] = {}
    for record in batch:
        by_user.setdefault(record.key, []).append(_event.decode(record.value))
    rows: dict[bytes, bytes] = {}
    confirmations = []
    for user, row in zip(by_user, await client.mget([b"h:" + user for user in by_user]), strict=True):
        behaviors = _behaviors.decode(row[ORDER_BYTES:]) if row else []
        seen = int.from_bytes(row[8:ORDER_BYTES], "big") if row else 0
        if not (added := _fold(behaviors, by_user[user], limit_events)):
            continue
        newest_ms, seen = behaviors[-1][0], seen + added
        rows[b"h:" + user] = newest_ms.to_bytes(8, "big") + seen.to_bytes(8, "big") + _to_row.encode(behaviors)
        value = msgspec.json.encode(Record(user.decode(), newest_ms, seen, behaviors))
        confirmations.append(await producer.send(USER_FEATURES.name, value, key=user))
    await asyncio.gather(*confirmations)
    if rows:
        await client.evalsha(set_if_newer, len(rows), *rows, *rows.values())


def _fold(behaviors: list[Behavior], events: list[Event], limit: int) -> int:
    """Insert new events in order, in place; returns how many."""
    ids, added = {behavior[1] for behavior in behaviors}, 0
    for event in events:
        behavior = (event.event_time_ms, event.event_id, event.item_id, event.type)
        if event.event_id in ids or (len(behaviors) >= limit and behavior < behaviors[0]):
            continue
        insort(behaviors, behavior)
        ids.add(event.event_id)
        added += 1
        if len(behaviors) > limit:
            ids.discard(behaviors.pop(0)[1])
    return added
