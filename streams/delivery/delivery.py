"""The delivery contract, implemented once for every stage and runtime: at-least-once delivery with idempotent effects.

    1. Decode    A record that violates its schema becomes a dead letter.
    2. Compute   The stage turns the messages into effects. A message that makes it fail becomes a dead letter.
    3. Produce   Drop feature records that are older than the store's. Produce the others, the deltas and the dead letters; the
                 brokers confirm every record. If a feature record is too large for them, its messages become dead letters.
    4. Serve     Write the feature records to the store, where an older record never replaces a newer one.
    5. Commit    The runtime commits the offsets, and only after `handle` has returned.

Failures:

    - A crash before step 5 redelivers the batch; the second pass ends in the same state.
    - If step 3 fails, `handle` raises and the worker must stop without committing.
    - While the store or the language model is unavailable, steps 2 to 4 wait for it. The consumer lag is the back-pressure.
    - If two stages of one process write the same topic, neither leaves an older record behind a newer one: steps 3 and 4 lock
      the records' keys.
    - Two workers may process the same entity, if one was evicted from the group and does not know it yet (a zombie). The worker
      whose record is superseded in step 4 produces the newer record again, so that it follows the stale one in the topic. If
      that worker dies before, or its record lands after it has given up, the archive stage finds the stale record.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Protocol, TypeVar

import structlog

from reaseq.backoff import Backoff
from reaseq.errors import InvalidRecord, ReaSeqError, Unavailable
from reaseq.records import FeatureRecord, read_partition
from streams.delivery import metrics
from streams.delivery.dead_letters import size_bytes, to_dead_letter
from streams.delivery.event_deltas import encode_deltas
from streams.delivery.key_locks import KeyLocks
from streams.delivery.messages import Decoder, Message, RawRecord, encode
from streams.delivery.stage import Effects, Repeats, Stage
from streams.delivery.topics import TOPIC_BY_MESSAGE
from streams.delivery.tracing import Spans, trace_id

log = structlog.get_logger()

T = TypeVar("T")
Decoded = tuple[RawRecord, Message]
Observer = Callable[[str, Message, float], None]  # stage, message, seconds from its production until it is servable

_NEVER_MS = 2**63
PAGE_RECORDS = 256  # stored records in one read

DEFAULT_BACKOFF = Backoff(first_s=0.1, limit_s=5.0)


class RecordProducer(Protocol):
    """Where records are produced."""

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Append the records; returns once all are confirmed, raises if one is not."""
        ...

    @property
    def max_message_bytes(self) -> int:
        """The largest record that can be produced. The headers of a dead letter are not included."""
        ...


class FeatureWriter(Protocol):
    """Where feature records become servable."""

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The records that are not older than the stored record of the same entity."""
        ...

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """Make the records servable; returns those that a newer stored record supersedes."""
        ...

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """The stored records of the same entities."""
        ...


class Delivery:
    """Processes the batches of one stage according to the contract above.

    `in_flight` is the number of batches in progress; `waiting_for` counts what they wait for, by reason code.
    """

    def __init__(
        self,
        stage: Stage,
        producer: RecordProducer,
        store: FeatureWriter,
        future_limit_s: float,
        observe: Observer | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        locks: KeyLocks | None = None,
    ) -> None:
        """Stages of one process that write the same topics must share `locks`."""
        self.stage = stage
        self._producer = producer
        self._store = store
        self._decoder = Decoder(stage.source, future_limit_s)
        self._observe = observe
        self._backoff = backoff
        self._locks = locks or KeyLocks()
        self.in_flight = 0
        self.waiting_for: Counter[str] = Counter()

    async def handle(self, batch: Sequence[RawRecord]) -> None:
        """Run steps 1 to 4 for one batch. Raises only if committing the batch would lose data."""
        self.in_flight += 1
        try:
            await self._deliver(batch)
        finally:
            self.in_flight -= 1

    async def due_again(self) -> list[RawRecord]:
        """The records that the stage wants to process again, as a batch for `handle`; their offsets are committed already."""
        if not isinstance(self.stage, Repeats):
            return []
        records = await self._until_available(self.stage.due_again)
        return [encode(record, int(time.time() * 1000)) for record in records]

    async def _deliver(self, batch: Sequence[RawRecord]) -> None:
        started = time.perf_counter()
        # 1. Decode
        decoded, dead_letters = self._decode(batch)
        origins_ms = _oldest_origins_ms(decoded)
        spans = Spans(self.stage.name, decoded)
        # 2. Compute
        effects = await self._compute(decoded, dead_letters)
        async with self._locks.holding({_lock_key(record) for record in effects.records}):
            # 3. Produce
            if effects.records:
                await self._drop_stale(effects)
            features = [_encode(record, origins_ms, spans) for record in effects.records]
            features = self._drop_too_large(features, effects, decoded, dead_letters)
            deltas = encode_deltas(effects.deltas, self._producer.max_message_bytes)
            await self._producer.produce([*deltas, *features, *dead_letters])
            # 4. Serve
            if effects.records:
                await self._serve(effects)
        await self._produce_newer(effects.superseded)
        servable = {_source_key(record) for record in effects.records}
        spans.end(servable)
        self._count(effects, len(decoded), len(dead_letters), time.perf_counter() - started)
        self._measure_freshness(servable, decoded, origins_ms)

    # 1. Decode

    def _decode(self, batch: Sequence[RawRecord]) -> tuple[list[Decoded], list[RawRecord]]:
        decoded, dead_letters = [], []
        now_ms = int(time.time() * 1000)
        for raw in batch:
            try:
                decoded.append((raw, self._decoder.decode(raw, now_ms)))
            except InvalidRecord as error:
                dead_letters.append(self._to_dead_letter(raw, error.reason, str(error)))
        return decoded, dead_letters

    # 2. Compute

    async def _compute(self, decoded: list[Decoded], dead_letters: list[RawRecord]) -> Effects:
        """Process the batch. If it fails, process each key on its own, so that a poison message affects only its key.

        Never process only some messages of a key: a stage that reads its state from the store must see all of them at once,
        because the effects of the first are not in the store yet.
        """
        if not decoded:
            return Effects()
        try:
            return await self._process(decoded)
        except Exception as error:
            fault = type(error).__name__ if self.stage.source.personal else repr(error)
            log.warning("batch_failed", stage=self.stage.name, records=len(decoded), error=fault)
        total = Effects()
        for key in dict.fromkeys(message.key for _, message in decoded):
            total.add(await self._compute_key([pair for pair in decoded if pair[1].key == key], dead_letters))
        return total

    async def _compute_key(self, decoded: list[Decoded], dead_letters: list[RawRecord]) -> Effects:
        try:
            return await self._process(decoded)
        except Exception as error:
            failures = {row: failure for row, pair in enumerate(decoded) if (failure := await self._failure(pair))}
            # If each message passes alone, only their combination fails, so all of them become dead letters.
            failures = failures or dict.fromkeys(range(len(decoded)), error)
        for row, failure in failures.items():
            reason = failure.reason if isinstance(failure, ReaSeqError) else f"failed_{type(failure).__name__}"
            dead_letters.append(self._to_dead_letter(decoded[row][0], reason, repr(failure)))
        rest = [pair for row, pair in enumerate(decoded) if row not in failures]
        return await self._compute_key(rest, dead_letters) if rest else Effects()

    async def _failure(self, pair: Decoded) -> Exception | None:
        try:
            await self._process([pair])
        except Exception as error:
            return error
        return None

    async def _process(self, decoded: list[Decoded]) -> Effects:
        return await self._until_available(lambda: self.stage.process([message for _, message in decoded]))

    # 3. Produce

    async def _drop_stale(self, effects: Effects) -> None:
        fresh = await self._call_store(self._store.drop_stale, effects.records)
        effects.counts["stale"] += len(effects.records) - len(fresh)
        effects.records = fresh

    def _drop_too_large(
        self, features: list[RawRecord], effects: Effects, decoded: list[Decoded], dead_letters: list[RawRecord]
    ) -> list[RawRecord]:
        limit = self._producer.max_message_bytes
        sizes = {
            _source_key(record): size
            for record, feature in zip(effects.records, features, strict=True)
            if (size := size_bytes(feature)) > limit
        }
        if not sizes:
            return features
        failed = [(raw, message) for raw, message in decoded if message.key in sizes]
        for raw, message in failed:
            error = f"the feature record that it leads to has {sizes[message.key]} bytes; the limit is {limit}"
            dead_letters.append(self._to_dead_letter(raw, "result_too_large", error))
        positions = {(raw.partition, raw.offset) for raw, _ in failed}
        effects.deltas = [delta for delta in effects.deltas if (read_partition(delta.source), delta.offset) not in positions]
        kept = [_source_key(record) not in sizes for record in effects.records]
        effects.records = list(compress(effects.records, kept))
        return list(compress(features, kept))

    # 4. Serve

    async def _serve(self, effects: Effects) -> None:
        superseded = await self._call_store(self._store.write, effects.records)
        # Another worker has written newer records since step 3, so one of the two is a zombie. A topic must end with the newest
        # record, but the stale one may come last.
        effects.counts["stale"] += len(superseded)
        await self._produce_newer(superseded)

    async def _produce_newer(self, superseded: Sequence[FeatureRecord]) -> None:
        """Produce the stored records of the same entities again, until the store has none that is newer still."""
        for start in range(0, len(superseded), PAGE_RECORDS):
            page = list(superseded[start : start + PAGE_RECORDS])
            while page:
                newer = await self._call_store(self._store.newest, page)
                await self._producer.produce([encode(record, int(time.time() * 1000)) for record in newer])
                current = await self._call_store(self._store.drop_stale, newer)
                page = [record for record in newer if record not in current]

    async def _call_store(
        self, method: Callable[[Sequence[FeatureRecord]], list[FeatureRecord]], records: Sequence[FeatureRecord]
    ) -> list[FeatureRecord]:
        return await self._until_available(partial(asyncio.to_thread, method, records))

    async def _until_available(self, call: Callable[[], Awaitable[T]]) -> T:
        """Retry `call` for as long as it raises Unavailable."""
        attempt = 0
        while True:
            try:
                return await call()
            except Unavailable as error:
                wait_s = self._backoff.wait_s(attempt)
                log.warning("waiting", reason=error.reason, stage=self.stage.name, retry_in_s=wait_s, error=str(error))
                metrics.WAITS.labels(self.stage.name, error.reason).inc()
                self.waiting_for[error.reason] += 1
                try:
                    await asyncio.sleep(wait_s)
                finally:
                    self.waiting_for -= Counter([error.reason])
                attempt += 1

    def _to_dead_letter(self, raw: RawRecord, reason: str, message: str) -> RawRecord:
        stage, now_ms = self.stage.name, int(time.time() * 1000)
        dead_letter = to_dead_letter(raw, stage, reason, message, now_ms, self._producer.max_message_bytes)
        about = {"id": (dead_letter.key or b"").decode(), "stage": stage, "reason": reason, "trace_id": trace_id(raw.headers)}
        if not self.stage.source.personal:
            about |= {"key": (raw.key or b"").decode(errors="replace"), "error": message}
        log.warning("dead_letter", **about)
        metrics.DEAD_LETTERS.labels(stage, reason).inc()
        return dead_letter

    def _count(self, effects: Effects, processed: int, dead_letters: int, seconds: float) -> None:
        stage = self.stage.name
        metrics.RECORDS.labels(stage, "processed").inc(processed)
        metrics.RECORDS.labels(stage, "dead_letter").inc(dead_letters)
        metrics.WRITTEN.labels(stage).inc(len(effects.records))
        metrics.BATCH.labels(stage).observe(seconds)
        metrics.LAST_PROGRESS.labels(stage).set(time.time())
        for outcome, count in effects.counts.items():
            metrics.OUTCOMES.labels(stage, outcome).inc(count)

    def _measure_freshness(self, servable: set[str], decoded: list[Decoded], origins_ms: Mapping[str, int]) -> None:
        now_s = time.time()
        freshness = metrics.FRESHNESS.labels(self.stage.name)
        for entity_id in servable:
            freshness.observe(now_s - origins_ms[entity_id] / 1000)
        if self._observe:
            for _, message in decoded:
                if message.key in servable:
                    self._observe(self.stage.name, message, now_s - message.origin_ms / 1000)


def _oldest_origins_ms(decoded: list[Decoded]) -> dict[str, int]:
    """When the oldest input of each entity was produced."""
    oldest: dict[str, int] = {}
    for _, message in decoded:
        if message.origin_ms < oldest.get(message.key, _NEVER_MS):
            oldest[message.key] = message.origin_ms
    return oldest


def _encode(record: FeatureRecord, origins_ms: Mapping[str, int], spans: Spans) -> RawRecord:
    key = _source_key(record)
    return encode(record, origins_ms[key], spans.headers(key))


def _source_key(record: FeatureRecord) -> str:
    """The key of the messages that the record was made from."""
    topic = TOPIC_BY_MESSAGE[type(record)]
    return (topic.source_key or topic.key)(record)


def _lock_key(record: FeatureRecord) -> str:
    topic = TOPIC_BY_MESSAGE[type(record)]
    return f"{topic.name}/{topic.key(record)}"
