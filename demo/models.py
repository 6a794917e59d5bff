"""The models that the demo compares."""

from evaluation.baselines.cheap import EASE, PERSONAL, TIFU

RANKER, ID_ONLY, RECENT, POPULAR = "ranker", "ranker, ids only", "recent popularity", "popularity"
PEERS = (PERSONAL, EASE, TIFU, RECENT, POPULAR)  # what a user would choose instead
MODELS = (RANKER, ID_ONLY, *PEERS)
