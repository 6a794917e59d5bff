"""Builds ranker batches from the point-in-time features of candidate sets, and training examples from the batches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evaluation.candidate_sets import TARGETS_LIMIT, CandidateSets
from evaluation.instances import RankingInstance, to_times
from reaseq.aggregates import BUILT_IN, EventLog, LoggedAggregates
from reaseq.ranker.batch import RankedUser, build_batch
from reaseq.ranker.item_statistics import ItemStatistics
from reaseq.ranker.model import RankerBatch, RankerConfig
from reaseq.ranker.training import RankerExamples
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot


class BatchBuilder:
    """Builds batches, caching the features that all variants share."""

    def __init__(self, events: EventLog, table: Snapshot, statistics: Mapping[int, ItemStatistics]) -> None:
        self._aggregates = LoggedAggregates(BUILT_IN, events, table.rows(events.item_ids).numpy())
        self._table, self._statistics = table, statistics
        self._batches: dict[tuple[int, int], RankerBatch] = {}

    def build(
        self, instances: Sequence[RankingInstance], rows: Tensor, history: int, scores: Sequence[Tensor], age_ms: int = 0
    ) -> RankerBatch:
        """A batch of candidates' rows (n, C), with the latest `history` behaviors and other models' `scores` (n, C, E).

        Popularity lacks the last `age_ms` before each instance. The cache is keyed by the identity of `rows` and the age.
        """
        key = (id(rows), age_ms)
        if key not in self._batches or self._batches[key].history.rows.shape[1] < history:
            self._batches[key] = self._build_shared(instances, rows, history, age_ms)
        shared = self._batches[key]
        latest = replace(
            shared.history,
            rows=shared.history.rows[:, -history:],
            types=shared.history.types[:, -history:],
            gaps=shared.history.gaps[:, -history:],
        )
        return replace(shared, numbers=torch.cat([shared.numbers, *scores], dim=-1), history=latest)

    def _build_shared(self, instances: Sequence[RankingInstance], rows: Tensor, history: int, age_ms: int) -> RankerBatch:
        times_ms = to_times(instances).tolist()
        return build_batch(
            [
                RankedUser(instance.basket.history, Inferred(), time_ms, latest_before(self._statistics, time_ms))
                for instance, time_ms in zip(instances, times_ms, strict=True)
            ],
            rows,
            self._aggregates.evaluate(rows.numpy(), np.array(times_ms)[:, None], age_ms),
            torch.zeros(*rows.shape, 0),
            self._table,
            RankerConfig(history=history, inferred=0),
        )


def latest_before(statistics: Mapping[int, ItemStatistics], time_ms: int) -> ItemStatistics | None:
    """Of statistics by the cut in ms of their log, in order, those of the last cut that is not after `time_ms`."""
    cuts_ms = [cut_ms for cut_ms in statistics if cut_ms <= time_ms]
    return statistics[cuts_ms[-1]] if cuts_ms else None


def build_examples(batch: RankerBatch, candidate_sets: CandidateSets, calibrates: bool) -> RankerExamples:
    """Training examples: the targets and training negatives of each set. Probabilities are measured if `calibrates`."""
    width = TARGETS_LIMIT + candidate_sets.training_negatives
    trained = replace(
        batch,
        candidates=batch.candidates[:, :width],
        numbers=batch.numbers[:, :width],
    )
    weights = candidate_sets.calibration_mask[:, :width].float() * calibrates
    mask = candidate_sets.mask
    negatives = mask[:, TARGETS_LIMIT:width]
    return RankerExamples(trained, mask[:, :TARGETS_LIMIT], negatives, torch.zeros(negatives.shape), weights)


def concatenate_examples(parts: Sequence[RankerExamples]) -> RankerExamples:
    """The examples of all parts, in order."""
    batches = [part.batch for part in parts]
    history = type(batches[0].history)(
        *(torch.cat([getattr(batch.history, name) for batch in batches]) for name in ("rows", "types", "gaps"))
    )
    names = ("inferred", "confidences", "candidates", "numbers", "now_ms")
    columns = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return RankerExamples(
        RankerBatch(history=history, **columns),
        torch.cat([part.positives for part in parts]),
        torch.cat([part.negatives for part in parts]),
        torch.cat([part.log_q for part in parts]),
        torch.cat([part.weights for part in parts]),
    )
