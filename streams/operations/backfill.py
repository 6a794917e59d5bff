"""Backfill: produces the rows of a source file to its topic, at a limited rate."""

import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from streams.delivery.messages import RawRecord
from streams.delivery.topics import ITEMS, Topic
from streams.operations.replay import at_rate
from streams.operations.source_file import SourceFile
from streams.operations.source_values import Row
from streams.runtime.kafka.producer import Producer


def backfill(
    source: SourceFile, producer: Producer, progress_file: Path, rate_per_s: float, progress: Callable[[int], None]
) -> int:
    """Produce the rows of `source`, at most `rate_per_s` per second. Resumes where an interrupted run stopped.

    Invalid rows are produced as they are: the stream sends them to the dead-letter queue with a reason. Calls `progress` with
    the number of rows of each step. Returns the number of rows produced.
    """
    done = int(json.loads(progress_file.read_text())["rows"]) if progress_file.exists() else 0
    progress(done)
    progress_file.parent.mkdir(parents=True, exist_ok=True)
    produced = 0
    for chunk in at_rate(islice(source.messages(), done, None), rate_per_s):
        produced += producer.send_raw([_to_record(source.topic, message) for message in chunk])
        partial = progress_file.with_suffix(".partial")
        partial.write_text(json.dumps({"rows": done + produced}))
        partial.replace(progress_file)
        progress(len(chunk))
    return produced


def _to_record(topic: Topic, message: Row) -> RawRecord:
    key = message.get("item_id" if topic is ITEMS else "user_id", "")
    return RawRecord(topic.name, key.encode(), json.dumps(message, default=str).encode(), int(time.time() * 1000))
