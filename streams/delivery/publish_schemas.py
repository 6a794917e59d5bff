"""Publishes the JSON schemas of the messages: `python -m streams.delivery.publish_schemas`.

Run the tests first: they compare the records with the schemas published before, and fail if a record already on the topics
would become unreadable.
"""

import json
from pathlib import Path

import msgspec

from reaseq.records import Event, EventDeltas, Item, ItemAggregates, ItemFeatures, UserFeatures

FOLDER = Path(__file__).with_name("published_schemas")
MESSAGES: tuple[type[msgspec.Struct], ...] = (Item, Event, EventDeltas, ItemFeatures, UserFeatures, ItemAggregates)


def schema_file(message: type[msgspec.Struct]) -> Path:
    """Where the schema of a message is published."""
    return FOLDER / f"{message.__struct_config__.tag}.json"


def main() -> None:
    """Write every schema."""
    for message in MESSAGES:
        schema_file(message).write_text(json.dumps(msgspec.json.schema(message), indent=1) + "\n")


if __name__ == "__main__":
    main()
