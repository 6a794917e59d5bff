"""The numbers that every ranker reads of each candidate: columns and their order. Scores and declared numbers follow them."""

from reaseq.aggregates import POPULARITY as POPULARITY_AGGREGATE
from reaseq.ranker.item_statistics import ITEM_NUMBERS
from reaseq.ranker.own_items import OWN_FEATURES

POPULARITY = slice(0, len(POPULARITY_AGGREGATE.spans))  # decayed counts, of which the last has the longest half-life
OWN_ITEMS = slice(POPULARITY.stop, POPULARITY.stop + OWN_FEATURES)  # see `reaseq.ranker.own_items`
STATISTICS = slice(OWN_ITEMS.stop, OWN_ITEMS.stop + ITEM_NUMBERS)  # see `reaseq.ranker.item_statistics`
PRICE, AGE_DAYS, TREND_DAY, TREND_WEEK = range(STATISTICS.stop, STATISTICS.stop + 4)
NUMBERS = TREND_WEEK + 1
