"""Point-in-time features out of the archive, through Feast: what training may know of a user at a moment."""

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
import pyarrow.parquet as pq

from features import definitions as views
from features.packing import unpack_history, unpack_inferred
from features.repository import FeatureRepository
from reaseq.behavior.examples import Basket
from reaseq.errors import CatalogueError
from reaseq.records import History, Inferred

_FEATURES = [
    f"{views.user_history.name}:history",
    f"{views.user_inferred.name}:inferred",
    f"{views.user_inferred.name}:model",
]


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
    return [
        (
            unpack_history(history) if isinstance(history, bytes) else History(),
            _inferred(inferred, model) if isinstance(inferred, bytes) else Inferred(),
        )
        for history, inferred, model in zip(joined["history"], joined["inferred"], joined["model"], strict=True)
    ]


def baskets_in_archive(repository: FeatureRepository, until_ms: int) -> list[Basket]:
    """Every basket before `until_ms` that the archive's histories tell of, in order of time, with the history before each.

    A basket is what the log holds of a user at one moment. Its history is what the archive knew strictly before, which may
    lack a moment or two where events came faster than records: what was known then, not what became known later.
    Raises CatalogueError where the archive tells of nothing.
    """
    taken: dict[tuple[int, str], dict[int, str]] = defaultdict(dict)  # (time, user): event key → item
    folder = repository.settings.archive_dir / views.user_history.name
    rows = pq.read_table(folder, columns=[views.USER_KEY, "history"])
    for user_id, packed in zip(rows[views.USER_KEY].to_pylist(), rows["history"].to_pylist(), strict=True):
        history = unpack_history(packed)
        for item_id, time_ms, key in zip(history.item_ids, history.times_ms, history.event_keys, strict=True):
            if time_ms < until_ms:
                taken[time_ms, user_id][key] = item_id
    moments = sorted(taken)
    if not moments:
        raise CatalogueError(f"the archive in {repository.settings.archive_dir} holds no history of that time")
    known = users_before(repository, [user_id for _, user_id in moments], [time_ms for time_ms, _ in moments])
    return [
        Basket(user_id, time_ms, tuple(dict.fromkeys(taken[time_ms, user_id].values())), history)
        for (time_ms, user_id), (history, _) in zip(moments, known, strict=True)
    ]


def _inferred(packed: bytes, model: str) -> Inferred:
    item_ids, confidences = unpack_inferred(packed)
    return Inferred(item_ids=item_ids, confidences=confidences, model=model)
