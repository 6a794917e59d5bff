"""A load generator: produces the records of a shop until it is stopped."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from reaseq.records import Event, Item
from streams.delivery.messages import RawRecord, encode
from streams.delivery.topics import EVENTS
from streams.runtime.kafka.producer import Producer

Record = Item | Event | RawRecord  # RawRecord: an invalid record

CHUNK_INTERVAL_S = 0.2
POISON_EVERY = 200  # records


@dataclass
class Load:
    """Produces `chunk_records` records at a time until `ending` is set."""

    records: Iterator[Record]
    chunk_records: int
    produced: list[Record] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self, producer: Producer) -> None:
        while not self.ending.is_set() and (chunk := list(islice(self.records, self.chunk_records))):
            producer.send_raw([build_raw(record) for record in chunk])
            self.produced += chunk
            time.sleep(CHUNK_INTERVAL_S)


def mix_records(items: Sequence[Item], events: Sequence[Event], generator: random.Random, changing: bool) -> Iterator[Record]:
    """The records of a shop: items are listed, items may change price and title, users buy, and some records are invalid."""
    listed: list[Item] = []
    number = 0
    new = iter(items)
    for event in events:
        number += 1
        if number % 8 == 0 and (item := next(new, None)):
            listed.append(item)
            yield item
        if changing and number % 31 == 0:
            index = generator.randrange(len(listed))
            title = listed[index].title + (" new" if generator.random() < 0.5 else "")  # a new title needs new reasoning
            price = (listed[index].price or 0) + 1
            later = listed[index].event_time_ms + 1
            listed[index] = msgspec.structs.replace(listed[index], title=title[:900], price=price, event_time_ms=later)
            yield listed[index]
        if number % POISON_EVERY == 0:
            yield RawRecord(EVENTS.name, event.user_id.encode(), b'{"schema": "event.1", "broken', int(time.time() * 1000))
        yield event


def build_raw(record: Record) -> RawRecord:
    """Encode a record, with the current time as its timestamp."""
    return record if isinstance(record, RawRecord) else encode(record, int(time.time() * 1000))


def build_event(user_id: str, time_ms: int) -> Event:
    """An event of a user's own; its item is not on sale."""
    return Event(event_id=user_id, user_id=user_id, item_id="i", type="view", event_time_ms=time_ms)
