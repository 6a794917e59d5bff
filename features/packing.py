"""Long arrays in one binary column: a user's history and inferred behaviours as Arrow IPC streams."""

import pyarrow as pa

from reaseq.records import History, Inferred

_HISTORY = pa.schema([("item_id", pa.string()), ("type", pa.uint8()), ("time_ms", pa.int64()), ("event_key", pa.int64())])
FORGOTTEN = b"forgotten_ms"  # in the metadata of a history's schema
_INFERRED = pa.schema([("item_id", pa.string()), ("confidence", pa.float32())])


def pack_history(history: History) -> bytes:
    """A history as one Arrow IPC stream, a row a behaviour, oldest first."""
    columns = [history.item_ids, history.types, history.times_ms, history.event_keys]
    forgotten = {FORGOTTEN: str(history.forgotten_ms)} if history.forgotten_ms else None
    return _to_stream(_HISTORY.with_metadata(forgotten), columns)


def unpack_history(packed: bytes) -> History:
    """The inverse of `pack_history`."""
    batch = _from_stream(packed)
    item_ids, types, times_ms, event_keys = _columns(batch)
    forgotten_ms = int((batch.schema.metadata or {}).get(FORGOTTEN, 0))
    return History(item_ids=item_ids, types=types, times_ms=times_ms, event_keys=event_keys, forgotten_ms=forgotten_ms)


def pack_inferred(inferred: Inferred) -> bytes:
    """Inferred behaviours as one Arrow IPC stream, most confident first."""
    return _to_stream(_INFERRED, [inferred.item_ids, inferred.confidences])


def unpack_inferred(packed: bytes) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Item ids and confidences, the inverse of `pack_inferred`."""
    item_ids, confidences = _columns(_from_stream(packed))
    return item_ids, confidences


def _to_stream(schema: pa.Schema, columns: list[tuple[object, ...]]) -> bytes:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return bytes(sink.getvalue())


def _from_stream(packed: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(packed).read_next_batch()


def _columns(batch: pa.RecordBatch) -> list[tuple]:  # type: ignore[type-arg]
    return [tuple(column.to_pylist()) for column in batch.columns]
