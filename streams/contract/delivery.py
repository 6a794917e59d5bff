"""The delivery contract, written once for every stage and runtime: at least once, with idempotent effects.

    1. decode        a message that breaks its schema becomes a dead letter
    2. compute       the stage turns the rest into effects; a message that makes it fail becomes a dead letter
    3. produce       feature records and dead letters, each confirmed by the log; not what the store already holds newer
    4. serve         write the feature records to the store; older records change nothing there
    5. acknowledge   the runtime does, and only when `handle` has returned

3 and 4 hold the records' keys, so of two stages that write the same topic neither leaves an older record behind a newer one.
Of two processes, the one that finds in 4 that it was stale produces the newer record again, behind its own.

A crash anywhere before 5 brings the batch back, and the second pass ends where the first would have. When 3 fails the
error escapes: the worker must stop without acknowledging. When the store or the language model is away, 2 and 4 wait
for it: the consumer's lag is the back-pressure.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog

from reaseq.errors import InvalidRecord, ReaSeqError, Unavailable
from reaseq.records import FeatureRecord
from streams.contract import metrics
from streams.contract.dead_letters import to_dead_letter
from streams.contract.key_locks import KeyLocks
from streams.contract.messages import Decoder, Message, RawRecord, encode
from streams.contract.stage import Effects, Stage
from streams.contract.topics import TOPIC_OF
from streams.contract.tracing import Spans, trace_id

log = structlog.get_logger()

T = TypeVar("T")
Pair = tuple[RawRecord, Message]
Observer = Callable[[str, Message, float], None]

_NEVER_MS = 1 << 62


class RecordProducer(Protocol):
    """Where records are produced to."""

    async def produce(self, records: Sequence[RawRecord]) -> None:
        """Append the records; returns when all are confirmed, raises when one is not."""
        ...

    @property
    def limit_bytes(self) -> int:
        """The largest record that may be produced; what a dead letter notes besides may come on top."""
        ...


class FeatureWriter(Protocol):
    """Where feature records become servable."""

    def drop_stale(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """Those that are not older than what is held of the same entity."""
        ...

    def write(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """ScorerFactory records servable; returns those that a newer one keeps out."""
        ...

    def newest(self, records: Sequence[FeatureRecord]) -> list[FeatureRecord]:
        """What is held of the records' entities."""
        ...


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the n-th retry of something that will come back."""

    first_s: float = 0.1
    limit_s: float = 5.0

    def wait_s(self, attempt: int) -> float:
        """Doubles with each attempt, up to the limit."""
        return min(self.first_s * 2.0 ** min(attempt, 16), self.limit_s)


class Delivery:
    """Takes the batches of one stage through the contract above."""

    def __init__(
        self,
        stage: Stage,
        producer: RecordProducer,
        store: FeatureWriter,
        future_limit_s: float,
        observe: Observer | None = None,
        backoff: Backoff = Backoff(),
        locks: KeyLocks | None = None,
    ) -> None:
        """`locks` are shared by stages of one process that write the same topics."""
        self.stage = stage
        self._log = producer
        self._store = store
        self._decoder = Decoder(stage.source, future_limit_s)
        self._observe = observe
        self._backoff = backoff
        self._locks = locks or KeyLocks()
        self.in_hand = 0  # batches under way
        self.waiting_for: Counter[str] = Counter()  # what they wait for, by its reason

    async def handle(self, batch: Sequence[RawRecord]) -> None:
        """Steps 1 to 4 for one batch. Raises only where acknowledging would lose something."""
        self.in_hand += 1
        try:
            await self._deliver(batch)
        finally:
            self.in_hand -= 1

    async def _deliver(self, batch: Sequence[RawRecord]) -> None:
        started = time.perf_counter()
        decoded, letters = self._decode(batch)
        spans = Spans(self.stage.name, decoded)
        effects = await self._compute(decoded, letters)
        origins = _origins_ms(decoded)
        async with self._locks.holding({_key(record) for record in effects.records}):
            if effects.records:
                await self._drop_stale(effects)
            await self._log.produce([*(_encoded(record, origins, spans) for record in effects.records), *letters])
            if effects.records:
                await self._serve(effects)
        servable = {_entity(record) for record in effects.records}
        spans.end(servable)
        self._report(effects, servable, decoded, origins, len(letters), time.perf_counter() - started)

    async def _drop_stale(self, effects: Effects) -> None:
        fresh = await self._of_store(self._store.drop_stale, effects.records)
        effects.counts["stale"] += len(effects.records) - len(fresh)
        effects.records = fresh

    async def _serve(self, effects: Effects) -> None:
        stale = await self._of_store(self._store.write, effects.records)
        while stale:
            # Another worker has written newer ones since the check: whoever took this one for dead. Its records in the topic
            # stand before ours now, and must be the last.
            effects.counts["stale"] += len(stale)
            newer = await self._of_store(self._store.newest, stale)
            await self._log.produce([encode(record, int(time.time() * 1000)) for record in newer])
            still = await self._of_store(self._store.drop_stale, newer)
            stale = [record for record in newer if record not in still]

    async def _of_store(
        self, ask: Callable[[Sequence[FeatureRecord]], list[FeatureRecord]], records: Sequence[FeatureRecord]
    ) -> list[FeatureRecord]:
        return await self._when_available(partial(asyncio.to_thread, ask, records))

    def _decode(self, batch: Sequence[RawRecord]) -> tuple[list[Pair], list[RawRecord]]:
        decoded, letters = [], []
        now_ms = int(time.time() * 1000)
        for raw in batch:
            try:
                decoded.append((raw, self._decoder.decode(raw, now_ms)))
            except InvalidRecord as error:
                letters.append(self._to_dead_letter(raw, error.reason, str(error)))
        return decoded, letters

    async def _compute(self, pairs: list[Pair], letters: list[RawRecord]) -> Effects:
        """Effects of the batch; when it fails as a whole, of each key on its own, so that one message harms no other.

        Never of less than a key: a stage that reads its state from the store must see all messages of a key at once,
        since the effects of the first are not in the store yet.
        """
        if not pairs:
            return Effects()
        try:
            return await self._process(pairs)
        except Exception as error:
            log.warning("batch_failed", stage=self.stage.name, records=len(pairs), error=repr(error))
        total = Effects()
        for key in dict.fromkeys(message.key for _, message in pairs):
            effects = await self._compute_key([pair for pair in pairs if pair[1].key == key], letters)
            total = Effects(total.records + effects.records, total.counts + effects.counts)
        return total

    async def _compute_key(self, pairs: list[Pair], letters: list[RawRecord]) -> Effects:
        try:
            return await self._process(pairs)
        except Exception as error:
            failures = {place: failure for place, pair in enumerate(pairs) if (failure := await self._failure(pair))}
            # When each message passes alone, the failure lies in what they add up to: none of them can be kept.
            failures = failures or dict.fromkeys(range(len(pairs)), error)
        for place, failure in failures.items():
            reason = failure.reason if isinstance(failure, ReaSeqError) else f"failed_{type(failure).__name__}"
            letters.append(self._to_dead_letter(pairs[place][0], reason, repr(failure)))
        rest = [pair for place, pair in enumerate(pairs) if place not in failures]
        return await self._compute_key(rest, letters) if rest else Effects()

    async def _failure(self, pair: Pair) -> Exception | None:
        try:
            await self._process([pair])
        except Exception as error:
            return error
        return None

    async def _process(self, pairs: list[Pair]) -> Effects:
        return await self._when_available(lambda: self.stage.process([message for _, message in pairs]))

    async def _when_available(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                wait_s = self._backoff.wait_s(tries)
                log.warning("waiting", reason=error.reason, stage=self.stage.name, retry_in_s=wait_s, error=str(error))
                metrics.RETRIES.labels(self.stage.name, error.reason).inc()
                self.waiting_for[error.reason] += 1
                try:
                    await asyncio.sleep(wait_s)
                finally:
                    self.waiting_for -= Counter([error.reason])
                tries += 1

    def _report(
        self,
        effects: Effects,
        servable: set[str],
        pairs: list[Pair],
        origins_ms: Mapping[str, int],
        letters: int,
        seconds: float,
    ) -> None:
        name = self.stage.name
        now = time.time()
        metrics.RECORDS.labels(name, "processed").inc(len(pairs))
        metrics.RECORDS.labels(name, "dead_letter").inc(letters)
        metrics.WRITTEN.labels(name).inc(len(effects.records))
        metrics.BATCH.labels(name).observe(seconds)
        metrics.LAST_PROGRESS.labels(name).set(now)
        for what, count in effects.counts.items():
            metrics.OUTCOMES.labels(name, what).inc(count)
        freshness = metrics.FRESHNESS.labels(name)
        for entity in servable:
            freshness.observe(now - origins_ms[entity] / 1000)
        if self._observe:
            for _, message in pairs:
                if message.key in servable:
                    self._observe(name, message, now - message.origin_ms / 1000)

    def _to_dead_letter(self, raw: RawRecord, reason: str, message: str) -> RawRecord:
        letter = to_dead_letter(raw, self.stage.name, reason, message, int(time.time() * 1000), self._log.limit_bytes)
        told = {"id": (letter.key or b"").decode(), "key": (raw.key or b"").decode(errors="replace")}
        log.warning("dead_letter", **told, stage=self.stage.name, reason=reason, error=message, trace_id=trace_id(raw.headers))
        metrics.DEAD.labels(self.stage.name, reason).inc()
        return letter


def _origins_ms(pairs: list[Pair]) -> dict[str, int]:
    """When the oldest input of each entity was produced."""
    found: dict[str, int] = {}
    for _, message in pairs:
        if message.origin_ms < found.get(message.key, _NEVER_MS):
            found[message.key] = message.origin_ms
    return found


def _encoded(record: FeatureRecord, origins_ms: Mapping[str, int], spans: Spans) -> RawRecord:
    entity = _entity(record)
    return encode(record, origins_ms[entity], spans.headers(entity))


def _entity(record: FeatureRecord) -> str:
    return TOPIC_OF[type(record)].key(record)


def _key(record: FeatureRecord) -> str:
    return f"{TOPIC_OF[type(record)].name}/{_entity(record)}"
