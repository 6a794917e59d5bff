"""Point-in-time features out of the archive, through Feast: what training may know of a user at a moment."""

from collections.abc import Sequence

import pandas as pd

from features import definitions as views
from features.packing import unpack_history, unpack_inferred
from features.repository import FeatureRepository
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


def _inferred(packed: bytes, model: str) -> Inferred:
    item_ids, confidences = unpack_inferred(packed)
    return Inferred(item_ids=item_ids, confidences=confidences, model=model)
