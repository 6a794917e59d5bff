"""Leave-one-out on Amazon Beauty: the entries of the table, from counts to a blend that knows the date."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.baselines.sasrec import SasRecConfig, train_sasrec
from evaluation.blend import fit_blend
from evaluation.datasets.amazon_beauty import read_sequences
from evaluation.datasets.interaction_log import encode_cached
from evaluation.item_links import Links, count_items, link_companions, link_followers, link_same_label, link_similar
from evaluation.leave_one_out import HeldOut, Rows, Score, Scores, UserSequences, split
from evaluation.next_item import NextItemConfig, build_table, train_next_item
from reaseq.knowledge.content import Content
from reaseq.records import Item
from reaseq.representation.encoder import Encoder

SALES_DAYS = (3, 7, 30, 90)
SAMPLE = 4000  # validation users that a blend is fitted on, and as many others that it is judged on

POPULARITY, COMPANIONS, FOLLOWERS, SASREC = "popularity", "item-kNN", "sequential rules", "SASRec"
BEHAVIOR = "behavior model"
LABELED, MAIN = "sequential rules, brand, category", "sequential rules, brand, category, text"
TOLD_DAY = f"{MAIN}; told the day"
TOLD_SALES = f"{MAIN}; told the day and all sales before it"
TOLD = (TOLD_DAY, TOLD_SALES)


@dataclass(frozen=True)
class Catalog:
    """What is known of the items without any behavior.

    Attributes:
        labels: for each kind of label that items may share, the number of each row's label (N,), from 1; 0 is none.
        vectors: unit vectors (N − 1, D) of the items' texts, for rows from 1.
    """

    labels: dict[str, Rows]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """A row of the table. `builds` train or fit it, once for each seed, or once if it has no random part."""

    name: str
    builds: tuple[Callable[[], Score], ...]


class LeaveOneOutExperiment:
    """What the entries of the table are built from and judged on."""

    def __init__(
        self, sequences: UserSequences, catalog: Catalog, sasrec_config: SasRecConfig, behavior_config: NextItemConfig
    ) -> None:
        self.split = split(sequences)
        validation = self.split.validation
        users = np.random.default_rng(0).permutation(len(validation))
        sample = min(SAMPLE, len(users) // 2)
        self.fitted_on, self.validation = validation[users[:sample]], validation[users[sample : 2 * sample]]
        self._sequences, self._catalog = sequences, catalog
        self._sasrec_config, self._behavior_config = sasrec_config, behavior_config

    def entries(self, seeds: int) -> Iterator[Entry]:
        """The entries, the slowest last. What is blended, and the decays, were chosen on validation."""
        train = self.split.train
        rules = link_followers(train)
        followers, popularity = _score(Links(rules, 0.6)), score_popularity(train)
        labeled = [followers, _score(Links(rules, 0.3)), *self._score_by_labels()]
        main = [*labeled, _score(Links(link_similar(self._catalog.vectors), 0.6))]
        yield Entry(POPULARITY, (lambda: popularity,))
        yield Entry(COMPANIONS, (lambda: _score(Links(link_companions(train), 0.6)),))
        yield Entry(FOLLOWERS, (lambda: followers,))
        yield Entry(LABELED, (lambda: self._blend(labeled),))
        yield Entry(MAIN, (lambda: self._blend(main),))
        yield Entry(TOLD_DAY, (lambda: self._blend([*main, popularity, *score_recent_sales(train)]),))
        yield Entry(TOLD_SALES, (lambda: self._blend([*main, popularity, *score_recent_sales(self._sequences)]),))
        yield Entry(SASREC, tuple(partial(self._train_sasrec, seed) for seed in range(seeds)))
        yield Entry(BEHAVIOR, tuple(partial(self._train_behavior_model, seed) for seed in range(seeds)))

    def _score_by_labels(self) -> Iterator[Score]:
        counts = count_items(self.split.train)
        for labels in self._catalog.labels.values():
            yield _score(Links(link_same_label(labels, counts), 0.6))

    def _blend(self, scorers: list[Score]) -> Score:
        return fit_blend(scorers, self.fitted_on).score

    def _train_sasrec(self, seed: int) -> Score:
        return train_sasrec(self.split.train, self._sasrec_config, seed).score

    def _train_behavior_model(self, seed: int) -> Score:
        table = build_table(self._catalog.vectors, tuple(self._catalog.labels.values()))
        return train_next_item(self.split.train, table, replace(self._behavior_config, seed=seed)).score


def load(folder: Path, encoder: Encoder, cache: Path) -> LeaveOneOutExperiment:
    """The experiment on the files of Amazon Beauty in `folder`; `cache` keeps the vectors of the texts."""
    sequences, items = read_sequences(folder)
    labels = {name: _number(items, name) for name in ("brand", "category")}
    texts = [Content.from_listing(item.title, item.attributes).text for item in items]
    return LeaveOneOutExperiment(
        sequences, Catalog(labels, encode_cached(texts, encoder, cache)), SasRecConfig(), NextItemConfig()
    )


def score_recent_sales(sequences: UserSequences) -> Iterator[Score]:
    """Scores of models that are told the day of the target: how often each item was taken in the days before it."""
    days, rows = np.concatenate(sequences.days), np.concatenate(sequences.rows)
    order = np.argsort(days, kind="stable")
    days, rows = days[order], rows[order]

    def score(held_out: HeldOut, window: int) -> Scores:
        starts, ends = (np.searchsorted(days, held_out.days - ago) for ago in (window, 0))
        spans = zip(starts, ends, strict=True)
        return np.stack([np.bincount(rows[start:end], minlength=sequences.items) for start, end in spans]).astype(np.float32)

    return (partial(score, window=window) for window in SALES_DAYS)


def score_popularity(train: UserSequences) -> Score:
    """Scores that are the same for all users: how often each item was taken."""
    counts = count_items(train)
    return lambda held_out: np.tile(counts, (len(held_out), 1))


def _score(links: Links) -> Score:
    return lambda held_out: links.score(held_out.histories).toarray()


def _number(items: tuple[Item, ...], name: str) -> Rows:
    """Number what items have under `name`, such as the whole path of categories, for rows from 1; 0 is none."""
    values = [tuple(text for key, text in item.attributes.items() if key.startswith(name)) for item in items]
    numbers = {value: number for number, value in enumerate(sorted({value for value in values if value}), start=1)}
    return np.array([0, *(numbers.get(value, 0) for value in values)], np.int64)
