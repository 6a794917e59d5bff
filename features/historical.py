"""Point-in-time features out of the archive, through Feast: what training may know of a user at a moment."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow.parquet as pq

from features import definitions as views
from features.array_codec import unpack_history, unpack_inferred
from features.repository import FeatureRepository
from reaseq.behavior.examples import Basket
from reaseq.errors import CatalogError
from reaseq.records import History, Inferred

_INFERRED = ("inferred", "model", "as_of_ms", "events_seen", "latent")
_FEATURES = [f"{views.user_history.name}:history", *(f"{views.user_inferred.name}:{name}" for name in _INFERRED)]


def users_before(
    repository: FeatureRepository, user_ids: Sequence[str], times_ms: Sequence[int]
) -> list[tuple[History, Inferred]]:
    """Each user's features strictly before the time beside it; empty ones where there were none yet."""
    entities = pd.DataFrame(
        {
            views.USER_KEY: list(user_ids),
            "place": range(len(user_ids)),
            # Feast joins what is as old as the entity's time or older; a millisecond less makes it strictly older.
            "event_timestamp": pd.to_datetime(pd.Series(times_ms, dtype="int64") - 1, unit="ms", utc=True),
        }
    )
    joined = repository.feast.get_historical_features(entities, _FEATURES).to_df().set_index("place")
    # Feast's dask store leaves out an entity whose rows are all younger than asked for.
    joined = joined.reindex(range(len(user_ids)))
    histories = [unpack_history(packed) if isinstance(packed, bytes) else History() for packed in joined["history"]]
    columns = (joined[name] for name in _INFERRED)
    inferred = [_inferred(*row) if isinstance(row[0], bytes) else Inferred() for row in zip(*columns, strict=True)]
    return list(zip(histories, inferred, strict=True))


def instances_in_archive(repository: FeatureRepository, until_ms: int) -> list[tuple[Basket, Inferred]]:
    """Every basket before `until_ms` that the archive's histories tell of, in order of time, with what was known before each.

    A basket is what the log holds of a user at one moment. Its history is what the archive knew strictly before, which may
    lack a moment or two where events came faster than records: what was known then, not what became known later.
    Raises CatalogError where the archive tells of nothing.
    """
    taken: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)  # (time, user): event key → item
    for user_id, time_ms, key, item_id in events_in_archive(repository):
        if time_ms < until_ms:
            taken[time_ms, user_id][key] = item_id
    moments = sorted(taken)
    if not moments:
        raise CatalogError(f"the archive in {repository.settings.archive_dir} holds no history of that time")
    known = users_before(repository, [user_id for _, user_id in moments], [time_ms for time_ms, _ in moments])
    return [
        (Basket(user_id, time_ms, tuple(dict.fromkeys(taken[time_ms, user_id].values())), history), inferred)
        for (time_ms, user_id), (history, inferred) in zip(moments, known, strict=True)
    ]


def baskets_in_archive(repository: FeatureRepository, until_ms: int) -> list[Basket]:
    """The same without what was inferred."""
    return [basket for basket, _ in instances_in_archive(repository, until_ms)]


def events_in_archive(repository: FeatureRepository) -> Iterator[tuple[str, int, int, str]]:
    """User, time in ms, key and item of every event that an archived history tells of; many times, in no order.

    What was taken back later is left out: it never happened.
    """
    folder = repository.settings.archive_dir / views.user_history.name
    rows = pq.read_table(folder, columns=[views.USER_KEY, "history"])
    histories = [
        (user_id, unpack_history(packed))
        for user_id, packed in zip(rows[views.USER_KEY].to_pylist(), rows["history"].to_pylist(), strict=True)
    ]
    retracted = {(user_id, key) for user_id, history in histories for key in history.retracted_keys}
    for user_id, history in histories:
        for item_id, time_ms, key in zip(history.item_ids, history.times_ms, history.event_keys, strict=True):
            if (user_id, key) not in retracted:
                yield user_id, time_ms, key, item_id


def _inferred(packed: bytes, model: str, as_of_ms: int, events_seen: int, latent: bytes) -> Inferred:
    item_ids, confidences = unpack_inferred(packed)
    return Inferred(
        item_ids=item_ids,
        confidences=confidences,
        model=model,
        as_of_ms=int(as_of_ms),
        events_seen=int(events_seen),
        latent=latent,
    )
