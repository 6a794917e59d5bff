"""Produces an item and an event to the topics; seconds later, both are features.

To run it:

    reaseq up
    python examples/produce_item_and_event.py

Any Kafka client will do: the values are JSON as in streams/delivery/published_schemas/, the keys are the item and user ids.
"""

import time

from reaseq.records import Event, Item
from reaseq.settings import Settings
from streams.runtime.kafka.producer import Producer

ITEM_ID, USER_ID = "example-mug", "example-user"


def main() -> None:
    """Produce both records, and return once the broker has confirmed them."""
    now_ms = int(time.time() * 1000)
    item = Item(item_id=ITEM_ID, title="A red enamel mug", price=7.5, attributes={"color": "red"}, event_time_ms=now_ms)
    event = Event(event_id=f"example-{now_ms}", user_id=USER_ID, item_id=ITEM_ID, type="view", event_time_ms=now_ms)
    producer = Producer(Settings().kafka)
    try:
        print(f"confirmed: {producer.send([item, event])} records")
    finally:
        producer.close()


if __name__ == "__main__":
    main()
