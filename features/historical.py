"""Point-in-time reads of the archive through Feast: the user features that training may see for each example."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from features import definitions as views
from features.array_codec import unpack_history, unpack_inferred
from features.repository import FeatureRepository
from reaseq.aggregates import EventLog
from reaseq.behavior.examples import Basket
from reaseq.errors import CatalogError
from reaseq.records import History, Inferred

_INFERRED = ("inferred", "model", "as_of_ms", "events_seen", "latent")
_FEATURES = [f"{views.user_history.name}:history", *(f"{views.user_inferred.name}:{name}" for name in _INFERRED)]


def users_before(
    repository: FeatureRepository, user_ids: Sequence[str], times_ms: Sequence[int]
) -> list[tuple[History, Inferred]]:
    """Features of each user strictly before the time at the same position; empty records if there were none yet."""
    entities = pd.DataFrame(
        {
            views.USER_KEY: list(user_ids),
            "request": range(len(user_ids)),
            # Feast joins rows that are not newer than the entity's time; one millisecond less makes the bound strict.
            "event_timestamp": pd.to_datetime(pd.Series(times_ms, dtype="int64") - 1, unit="ms", utc=True),
        }
    )
    joined = repository.feast.get_historical_features(entities, _FEATURES).to_df().set_index("request")
    # Feast's dask store omits an entity whose rows are all newer than the requested time.
    joined = joined.reindex(range(len(user_ids)))
    histories = [unpack_history(packed) if isinstance(packed, bytes) else History() for packed in joined["history"]]
    columns = (joined[name] for name in _INFERRED)
    inferred = [_to_inferred(*row) if isinstance(row[0], bytes) else Inferred() for row in zip(*columns, strict=True)]
    return list(zip(histories, inferred, strict=True))


class ArchivedLog(NamedTuple):
    """The archived events before a time, and every basket in order of time, with the behaviors inferred before it."""

    events: EventLog
    instances: list[tuple[Basket, Inferred]]


def read_archived_log(repository: FeatureRepository, until_ms: int) -> ArchivedLog:
    """The log before `until_ms`.

    A basket is the set of a user's items with one event time. Its history is what the archive had strictly before that time.
    It may lack the last event or two if events arrived faster than records were written; it never contains later knowledge.
    Raises CatalogError if the archive has no events before `until_ms`.
    """
    by_basket: dict[tuple[int, str], dict[int, _Event]] = defaultdict(dict)  # (time, user): event key → event
    for user_id, time_ms, key, event in _events_in_archive(repository):
        if time_ms < until_ms:
            by_basket[time_ms, user_id][key] = event
    baskets = sorted(by_basket)
    if not baskets:
        raise CatalogError(
            f"the archive in {repository.settings.archive_dir} has no history to train on: send events or set a later --until"
        )
    features = users_before(repository, [user_id for _, user_id in baskets], [time_ms for time_ms, _ in baskets])
    instances = []
    for (time_ms, user_id), (history, inferred) in zip(baskets, features, strict=True):
        item_ids = dict.fromkeys(event.item_id for event in by_basket[time_ms, user_id].values())
        instances.append((Basket(user_id, time_ms, tuple(item_ids), history), inferred))
    return ArchivedLog(_to_event_log(by_basket), instances)


def baskets_in_archive(repository: FeatureRepository, until_ms: int) -> list[Basket]:
    """The baskets of `read_archived_log`, without the inferred behaviors."""
    return [basket for basket, _ in read_archived_log(repository, until_ms).instances]


class _Event(NamedTuple):
    item_id: str
    type_code: int
    value: int | None  # in millionths


def _events_in_archive(repository: FeatureRepository) -> Iterator[tuple[str, int, int, _Event]]:
    """User id, time in ms, event key and content of every event in the archived histories, with repeats and in no order.

    Events that were retracted later are left out.
    """
    folder = repository.settings.archive_dir / views.user_history.name
    rows = pq.read_table(folder, columns=[views.USER_KEY, "history"])
    histories = [
        (user_id, unpack_history(packed))
        for user_id, packed in zip(rows[views.USER_KEY].to_pylist(), rows["history"].to_pylist(), strict=True)
    ]
    retracted = {(user_id, key) for user_id, history in histories for key in history.retracted_keys}
    for user_id, history in histories:
        contents = map(_Event, history.item_ids, history.types, history.values or (None,) * len(history.types))
        for time_ms, key, event in zip(history.times_ms, history.event_keys, contents, strict=True):
            if (user_id, key) not in retracted:
                yield user_id, time_ms, key, event


def _to_event_log(by_basket: Mapping[tuple[int, str], Mapping[int, _Event]]) -> EventLog:
    times_ms = [time_ms for (time_ms, _), events in by_basket.items() for _ in events]
    item_ids, type_codes, values = zip(*(event for events in by_basket.values() for event in events.values()), strict=True)
    return EventLog(
        item_ids,
        np.array(times_ms, np.int64),
        np.array(type_codes, np.int64) - 1,
        np.array([value or 0 for value in values], np.int64),
        np.array([value is not None for value in values], bool),
    )


def _to_inferred(packed: bytes, model: str, as_of_ms: int, events_seen: int, latent: bytes) -> Inferred:
    item_ids, confidences = unpack_inferred(packed)
    return Inferred(
        item_ids=item_ids,
        confidences=confidences,
        model=model,
        as_of_ms=int(as_of_ms),
        events_seen=int(events_seen),
        latent=latent,
    )
