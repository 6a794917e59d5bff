"""An endless shop, and a producer of it that goes on as long as somebody wants."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from reaseq.records import Event, Item
from streams.contract.messages import RawRecord, encode
from streams.contract.topics import EVENTS
from streams.runtime.kafka_clients import Producer

Record = Item | Event | RawRecord  # the last: what no producer should send

CHUNK_INTERVAL_S = 0.2
POISON_EVERY = 200  # records


@dataclass
class Load:
    """Records that are produced as long as somebody wants, so many at once."""

    records: Iterator[Record]
    chunk_records: int
    produced: list[Record] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def run(self, producer: Producer) -> None:
        while not self.ending.is_set() and (chunk := list(islice(self.records, self.chunk_records))):
            producer.send_raw([build_raw(record) for record in chunk])
            self.produced += chunk
            time.sleep(CHUNK_INTERVAL_S)


def mixed(items: Sequence[Item], events: Sequence[Event], generator: random.Random, changing: bool) -> Iterator[Record]:
    """An endless shop: items are listed, and may change their price or title, people buy, and some producer sends garbage."""
    listed: list[Item] = []
    number = 0
    new = iter(items)
    for event in events:
        number += 1
        if number % 8 == 0 and (item := next(new, None)):
            listed.append(item)
            yield item
        if changing and number % 31 == 0:
            place = generator.randrange(len(listed))
            title = listed[place].title + (" new" if generator.random() < 0.5 else "")  # which asks for new reasoning
            price = (listed[place].price or 0) + 1
            later = listed[place].event_time_ms + 1
            listed[place] = msgspec.structs.replace(listed[place], title=title[:900], price=price, event_time_ms=later)
            yield listed[place]
        if number % POISON_EVERY == 0:
            yield RawRecord(EVENTS.name, event.user_id.encode(), b'{"schema": "event.1", "broken', int(time.time() * 1000))
        yield event


def build_raw(record: Record) -> RawRecord:
    """A record as bytes, produced at this moment."""
    return record if isinstance(record, RawRecord) else encode(record, int(time.time() * 1000))
