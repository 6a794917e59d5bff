"""Histories by Bytewax: a keyed stateful map, snapshots of its state each second, and one Redis pipeline a batch."""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import redis
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from confluent_kafka import OFFSET_BEGINNING

from .rule import Meter, Row, fold

METER = Meter()
BATCH = 1024

Keyed = tuple[str, list[Row] | None]


class Histories(StatelessSinkPartition[Keyed]):  # type: ignore[misc]
    """Writes the histories that changed."""

    def __init__(self) -> None:
        self._client = redis.Redis(port=int(os.environ["PEER_REDIS_PORT"]))

    def write_batch(self, items: list[Keyed]) -> None:
        """Write the histories of a batch."""
        pipeline = self._client.pipeline(transaction=False)
        for user, rows in items:
            if rows is not None:
                pipeline.set(f"history:{user}", json.dumps(rows))
        pipeline.execute()
        METER.count(len(items))
        METER.report()


class RedisSink(DynamicSink[Keyed]):  # type: ignore[misc]
    """One writer a worker."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Histories:
        """The writer."""
        return Histories()


def update(rows: list[Row] | None, event: dict[str, Any]) -> tuple[list[Row], list[Row] | None]:
    """The history after an event, and what to write."""
    rows = rows or []
    return rows, rows if fold(rows, event) else None


if __name__ == "__main__":
    flow = Dataflow("histories")
    source = KafkaSource([os.environ["PEER_BROKERS"]], ["events"], starting_offset=OFFSET_BEGINNING, batch_size=BATCH)
    messages = op.input("events", flow, source)
    decoded = op.map("decode", messages, lambda message: (message.key.decode(), json.loads(message.value)))
    op.output("redis", op.stateful_map("fold", decoded, update), RedisSink())
    state = Path(os.environ["PEER_STATE"])
    state.mkdir(parents=True)
    init_db_dir(state, 1)
    cli_main(flow, workers_per_process=1, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(str(state)))
