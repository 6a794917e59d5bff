"""Point-in-time reads of the archive through Feast: the user features that training may see for each example."""

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


def instances_in_archive(repository: FeatureRepository, until_ms: int) -> list[tuple[Basket, Inferred]]:
    """Every basket before `until_ms` in the archived histories, in order of time, with the behaviors inferred before it.

    A basket is the set of a user's items with one event time. Its history is what the archive had strictly before that time.
    It may lack the last event or two if events arrived faster than records were written; it never contains later knowledge.
    Raises CatalogError if the archive has no events before `until_ms`.
    """
    items_by_basket: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)  # (time, user): event key → item
    for user_id, time_ms, key, item_id in events_in_archive(repository):
        if time_ms < until_ms:
            items_by_basket[time_ms, user_id][key] = item_id
    baskets = sorted(items_by_basket)
    if not baskets:
        raise CatalogError(
            f"the archive in {repository.settings.archive_dir} has no history to train on: send events or set a later --until"
        )
    features = users_before(repository, [user_id for _, user_id in baskets], [time_ms for time_ms, _ in baskets])
    return [
        (Basket(user_id, time_ms, tuple(dict.fromkeys(items_by_basket[time_ms, user_id].values())), history), inferred)
        for (time_ms, user_id), (history, inferred) in zip(baskets, features, strict=True)
    ]


def baskets_in_archive(repository: FeatureRepository, until_ms: int) -> list[Basket]:
    """The baskets of `instances_in_archive`, without the inferred behaviors."""
    return [basket for basket, _ in instances_in_archive(repository, until_ms)]


def events_in_archive(repository: FeatureRepository) -> Iterator[tuple[str, int, int, str]]:
    """User id, time in ms, event key and item id of every event in the archived histories, with repeats and in no order.

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
        for item_id, time_ms, key in zip(history.item_ids, history.times_ms, history.event_keys, strict=True):
            if (user_id, key) not in retracted:
                yield user_id, time_ms, key, item_id


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
