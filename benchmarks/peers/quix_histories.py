"""Histories by Quix Streams: state in RocksDB with a changelog topic, its own Redis sink, flushed at each checkpoint."""

import os
from typing import Any

from quixstreams import Application, State
from quixstreams.sinks.community.redis import RedisSink

from .rule import Meter, fold

METER = Meter()


class MeteredSink(RedisSink):  # type: ignore[misc]
    """Reports once the rows of a checkpoint are in Redis."""

    def flush(self) -> None:
        """Write the rows."""
        super().flush()
        METER.report()


def update(event: dict[str, Any], state: State) -> list[Any] | None:
    """The history after an event; None if it did not change."""
    METER.count()
    rows: list[Any] = state.get("history", default=[])
    if not fold(rows, event):
        return None
    state.set("history", rows)
    return rows


def to_key(key: Any, value: Any) -> bytes:
    """The key of a history in Redis."""
    return b"history:" + (key if isinstance(key, bytes) else str(key).encode())


if __name__ == "__main__":
    app = Application(
        broker_address=os.environ["PEER_BROKERS"],
        consumer_group=os.environ["PEER_GROUP"],
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=os.environ["PEER_STATE"],
        loglevel="WARNING",
    )
    events = app.dataframe(app.topic("events", value_deserializer="json", key_deserializer="str"))
    histories = events.apply(update, stateful=True).filter(lambda rows: rows is not None)
    histories.sink(MeteredSink("127.0.0.1", int(os.environ["PEER_REDIS_PORT"]), 0, key_serializer=to_key))
    app.run()
