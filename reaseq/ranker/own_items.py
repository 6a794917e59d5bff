"""What the user's own history says of each candidate: how often, how regularly and how recently the user acted on it.

Purchases repeat, and a whole history tells how. Attention over the latest behaviors cannot see the rest.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from reaseq.days import DAY_MS
from reaseq.records import History
from reaseq.representation.item_table import Snapshot

HALF_LIVES_DAYS = (7.0, 30.0, 120.0)


class OwnItem(NamedTuple):
    """Features of one candidate for one user, NaN where the history does not tell.

    A moment is a point in time at which the user acted on items: a basket, if the events are purchases.
    """

    behaviors: float  # with the candidate
    behaviors_7d: float  # the same, decayed with a half-life of 7 days
    behaviors_30d: float
    behaviors_120d: float
    share: float  # of the user's moments
    days_since_last: float
    days_since_first: float
    moments_since_last: float
    lateness: float  # days since the last behavior with the candidate, over the mean interval between such behaviors
    moments: float  # of the user, whatever the candidate
    items: float  # distinct ones
    moment_size: float  # mean number of items
    days_idle: float  # since the user's latest behavior
    price_ratio: float  # log of the candidate's price over the median price of the user's items


OWN_FEATURES = len(OwnItem._fields)
_USER = slice(OwnItem._fields.index("moments"), OwnItem._fields.index("price_ratio"))
_ABSENT = [0.0 if at <= OwnItem._fields.index("share") else np.nan for at in range(_USER.start)]  # of an item never acted on


def own_items(history: History, now_ms: int, candidates: NDArray[np.int64], table: Snapshot) -> NDArray[np.float32]:
    """The features (C, OWN_FEATURES) of candidates' rows (C,) for a user with a history."""
    rows = table.rows(history.item_ids).cpu().numpy()
    ages = np.maximum(now_ms - np.array(history.times_ms, np.int64), 0) / DAY_MS  # (H,) oldest first
    moment = np.cumsum(np.append(False, ages[1:] != ages[:-1]))  # of each behavior
    moments = int(moment[-1]) + 1
    own, first, item, count = np.unique(rows, return_index=True, return_inverse=True, return_counts=True)
    last = np.zeros_like(first)  # index of the last behavior with each item
    last[item] = np.arange(len(rows))
    decayed = [np.bincount(item, np.exp2(-ages / half_life)) for half_life in HALF_LIVES_DAYS]
    interval = (ages[first] - ages[last]) / np.maximum(count - 1, 1)
    lateness = np.where(count > 1, ages[last] / np.maximum(interval, 0.5), np.nan)
    per_item = [count, *decayed, count / moments, ages[last], ages[first], moments - moment[last], lateness]
    user = [moments, len(own), len(rows) / moments, ages[-1]]

    features = np.empty((len(candidates), OWN_FEATURES), np.float32)
    features[:, _USER] = user
    features[:, -1] = _price_ratios(own, candidates, table)
    place = np.minimum(np.searchsorted(own, candidates), len(own) - 1)
    known = (own[place] == candidates) & (candidates > 0)
    features[:, : _USER.start] = _ABSENT
    features[known, : _USER.start] = np.stack(per_item, axis=1)[place[known]]
    return features


def _price_ratios(own: NDArray[np.int64], candidates: NDArray[np.int64], table: Snapshot) -> NDArray[np.float32]:
    """Log of each candidate's price over the median of the user's items (C,), NaN if a price is unknown."""
    paid, prices = read_prices(own, table), read_prices(candidates, table)
    known = paid[~np.isnan(paid)]
    typical = np.median(known) if len(known) else np.float32(np.nan)
    ratios: NDArray[np.float32] = np.log1p(prices) - np.log1p(typical)
    return ratios


def read_prices(rows: NDArray[np.int64], table: Snapshot) -> NDArray[np.float32]:
    """The prices of rows (…), NaN if unknown."""
    prices: NDArray[np.float32] = table.prices[torch.from_numpy(rows)].cpu().numpy()
    return np.where(prices >= 0, prices, np.float32(np.nan))
