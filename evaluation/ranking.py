"""What each thing that the ranker reads is worth: one ranker, trained and judged on the same candidate_sets, told more and more.

Global time split. The ranker trains on the blocks before the test; co-behavior counts and behavior models speak about a block
only if they were made before it began; histories, popularity and what was on sale are those strictly before the instance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluation.candidate_scorers import CandidateScorer, ScorerFactory
from evaluation.candidate_sets import TARGETS, CandidateSets, rank_targets
from evaluation.instances import RankingInstance, aged, to_times
from evaluation.item_labels import ItemLabels
from reaseq.ranker import training
from reaseq.ranker.batch import build_batch
from reaseq.ranker.model import COUNTS, Ranker, RankerBatch, RankerConfig
from reaseq.ranker.popularity import Popularity
from reaseq.ranker.training import RankerExamples, RankerLossModule, RankerTrainingConfig
from reaseq.records import Inferred
from reaseq.representation.item_table import Snapshot
from reaseq.representation.trained_ids import TrainedIds

HELD_OUT_SHARE = 0.1  # of the training instances, the latest: probabilities are calibrated on them
SCORING = 32


@dataclass(frozen=True)
class EvaluationPart:
    """CandidateSets of one sort, each at its instance; in order of time."""

    instances: list[RankingInstance]
    candidate_sets: CandidateSets


@dataclass(frozen=True)
class Variant:
    """What a ranker is told: labels and vectors, prices, other models' scores of each candidate, so much of the history."""

    name: str
    told: ItemLabels | None = None
    vectors: bool = False
    price: bool = True
    sources: tuple[str, ...] = ()
    history: int = 48
    search: int = 0


@dataclass(frozen=True)
class RankingExperiment:
    """A data set, cut and listed. The first training part is the one that probabilities are calibrated and judged on."""

    name: str
    table: Snapshot
    events: Sequence[tuple[int, str]]  # (time in ms, item id) in order of time: what popularity counts
    known: TrainedIds  # the items that training knows
    train: tuple[EvaluationPart, ...]
    test: dict[str, EvaluationPart]
    variants: tuple[Variant, ...]
    gains: tuple[tuple[str, str], ...]  # variants to compare: the one with more, and its control
    cuts: tuple[int, ...] = ()  # a source's scores of the instances from a cut on are of what was made before it
    sources: Callable[[int], dict[str, ScorerFactory]] = lambda seed: {}
    ages_ms: dict[str, int] = field(default_factory=dict)  # how old the features of the last variant are made, by name
    plan: RankerTrainingConfig = field(default_factory=RankerTrainingConfig)


Outcome = dict[str, NDArray[np.float32]]  # one seed: "variant|kind|what" to ranks (n, TARGETS), a log loss (n,) or an AUC ()


class RankingEvaluation:
    """Runs the variants of a experiment, seed by seed, on candidate_sets that are the same for all."""

    def __init__(self, experiment: RankingExperiment) -> None:
        self.experiment = experiment
        self._batches: dict[tuple[int, int], RankerBatch] = {}

    def run(
        self, seed: int, say: Callable[[str], None], known: Outcome, keep: Callable[[Outcome], None] = lambda found: None
    ) -> Outcome:
        """Train and judge every variant that is not `known` already; `keep` gets what there is after each."""
        experiment, found = self.experiment, dict(known)
        sources: dict[str, list[CandidateScorer]] = {}
        slots: dict[str, dict[str, Tensor]] = {}
        last = experiment.variants[-1]
        first_part = next(iter(experiment.test.values()))
        ages = {f"{last.name}, {age} old": age_ms for age, age_ms in experiment.ages_ms.items()}
        for variant in experiment.variants:
            wanted = [variant.name, *(ages if variant is last else ())]
            if all(any(key.startswith(f"{name}|") for key in found) for name in wanted):
                continue
            for name in set(variant.sources) - set(sources):
                make = experiment.sources(seed)[name]
                sources[name] = [make(cut_ms) for cut_ms in experiment.cuts]
                slots[name] = self._slots(sources[name])
            objective = self._train(variant, slots, seed)
            for part_name, part in experiment.test.items():
                of_slots = [slots[name][part_name] for name in variant.sources]
                found |= self._judged(variant.name, variant, objective, part, part.instances, of_slots, 0)
            for name, age_ms in ages.items() if variant is last else ():
                instances = aged(first_part.instances, age_ms)
                of_slots = [sources[of][-1].scores(instances, first_part.candidate_sets.rows) for of in variant.sources]
                found |= self._judged(name, variant, objective, first_part, instances, of_slots, age_ms)
            for name in wanted:
                say(f"{name}: {_glance(name, found)}")
            keep(found)
        return found

    def _slots(self, made: list[CandidateScorer]) -> dict[str, Tensor]:
        """A source's scores of every test part, and of the training parts under the key of their place."""
        experiment, cuts = self.experiment, self.experiment.cuts
        slots = {of: made[-1].scores(part.instances, part.candidate_sets.rows) for of, part in experiment.test.items()}
        for place, part in enumerate(experiment.train):
            times, blocks = to_times(part.instances), []
            for source, (start_ms, end_ms) in zip(made, pairwise(cuts), strict=False):
                at = ((times >= start_ms) & (times < end_ms)).nonzero().flatten()
                if len(at):
                    blocks.append(source.scores([part.instances[i] for i in at.tolist()], part.candidate_sets.rows[at]))
            slots[str(place)] = torch.cat(blocks)
        return slots

    def _train(self, variant: Variant, slots: dict[str, dict[str, Tensor]], seed: int) -> RankerLossModule:
        experiment = self.experiment
        parts = []
        for place, part in enumerate(experiment.train):
            of_slots = [slots[name][str(place)] for name in variant.sources]
            batch = self._batch(variant, part.instances, part.candidate_sets.rows, of_slots, 0)
            parts.append(_examples(batch, part.candidate_sets, calibrates=place == 0))
        first = parts[0]
        cut = round(len(first) * (1 - HELD_OUT_SHARE))
        cut_ms = int(first.batch.now_ms[cut]) if cut < len(first) else 2**62
        learnt = _joined([part[(part.batch.now_ms < cut_ms).nonzero().flatten()] for part in parts])
        held_out = first[torch.arange(cut, len(first))]
        config = RankerConfig(
            vector_dim=experiment.table.contents.vectors.shape[1] if variant.vectors else 0,
            claims=variant.told.claims if variant.told else 1,
            items=len(experiment.known),
            history=variant.history,
            inferred=0,
            scores=learnt.batch.scores.shape[-1],
            search=variant.search,
            price=variant.price,
        )
        table = self._table(variant)
        plan = replace(experiment.plan, seed=seed)
        model, _ = training.train(learnt, held_out, table, experiment.known, config, plan)
        return RankerLossModule(model, learnt, table, experiment.known, torch.device("cpu"))

    def _table(self, variant: Variant) -> Snapshot:
        return replace(self.experiment.table, contents=variant.told.contents) if variant.told else self.experiment.table

    def _judged(
        self,
        name: str,
        variant: Variant,
        objective: RankerLossModule,
        part: EvaluationPart,
        instances: list[RankingInstance],
        slots: list[Tensor],
        age_ms: int,
    ) -> Outcome:
        batch = self._batch(variant, instances, part.candidate_sets.rows, slots, age_ms)
        scores = _scores(objective, batch)
        found = Outcome()
        for place, kind in enumerate(part.candidate_sets.against):
            ranks, counts = rank_targets(scores, part.candidate_sets, kind)
            found[f"{name}|{kind}|rank"] = ranks.numpy()
            found[f"{name}|{kind}|rivals"] = counts.numpy().astype(np.float32)
            if place == 0:
                told = _stated(part.candidate_sets)
                p = objective.model.probability(scores)
                found[f"{name}|{kind}|auc"] = np.float32(_pooled_auc(scores, part.candidate_sets, told))  # type: ignore[assignment]
                found[f"{name}|{kind}|logloss"] = _log_loss(p, part.candidate_sets, told).numpy()
        return found

    def _batch(
        self, variant: Variant, instances: list[RankingInstance], rows: Tensor, slots: list[Tensor], age_ms: int
    ) -> RankerBatch:
        """Features of the candidate_sets; what all variants read alike is made once."""
        key = (id(rows), age_ms)
        if key not in self._batches or self._batches[key].history.rows.shape[1] < variant.history:
            self._batches[key] = self._features(instances, rows, variant.history, age_ms)
        base = self._batches[key]
        scores = torch.cat(slots, dim=-1) if slots else base.scores
        latest = replace(
            base.history,
            rows=base.history.rows[:, -variant.history :],
            types=base.history.types[:, -variant.history :],
            gaps=base.history.gaps[:, -variant.history :],
        )
        return replace(base, scores=scores, history=latest)

    def _features(self, instances: list[RankingInstance], rows: Tensor, history: int, age_ms: int) -> RankerBatch:
        experiment, times = self.experiment, to_times(instances).tolist()
        return build_batch(
            [instance.basket.history for instance in instances],
            [Inferred()] * len(instances),
            rows,
            counts_at(experiment.events, times, rows, experiment.table, age_ms),
            times,
            torch.zeros(*rows.shape, 0),
            experiment.table,
            RankerConfig(history=history, inferred=0),
        )


def counts_at(
    events: Sequence[tuple[int, str]], times_ms: Sequence[int], rows: Tensor, table: Snapshot, age_ms: int
) -> NDArray[np.float32]:
    """Popularity (n, C, COUNTS) of rows (n, C) at times in order, counting the events that were older than `age_ms` by then."""
    popularity = Popularity()
    event_times = np.array([time for time, _ in events], np.int64)
    event_rows = table.rows([item_id for _, item_id in events]).numpy()
    found, done = np.zeros((*rows.shape, COUNTS), np.float32), 0
    for place, time in enumerate(times_ms):
        end = int(np.searchsorted(event_times, time - age_ms))
        if end > done:
            popularity.observe(event_rows[done:end], event_times[done:end].tolist())
            done = end
        found[place] = popularity.counts(rows[place].numpy(), time)
    return found


def save_outcome(outcome: Outcome, path: Path) -> None:
    """Keep one seed's outcome, so that a long evaluation can be stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **outcome)  # type: ignore[arg-type]


def load_outcome(path: Path) -> Outcome:
    """The inverse of `save_outcome`."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def _examples(batch: RankerBatch, candidate_sets: CandidateSets, calibrates: bool) -> RankerExamples:
    kept = TARGETS + candidate_sets.learnt
    weights = _stated(candidate_sets)[:, :kept].float() * calibrates
    cut = replace(
        batch,
        candidates=batch.candidates[:, :kept],
        counts=batch.counts[:, :kept],
        scores=batch.scores[:, :kept],
    )
    return RankerExamples(cut, candidate_sets.real[:, :TARGETS], candidate_sets.real[:, TARGETS:kept], weights)


def _joined(parts: list[RankerExamples]) -> RankerExamples:
    batches = [part.batch for part in parts]
    history = type(batches[0].history)(
        *(torch.cat([getattr(batch.history, name) for batch in batches]) for name in ("rows", "types", "gaps"))
    )
    names = ("inferred", "confidences", "candidates", "counts", "now_ms", "scores")
    columns = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
    return RankerExamples(
        RankerBatch(history=history, **columns),
        torch.cat([part.positives for part in parts]),
        torch.cat([part.negatives for part in parts]),
        torch.cat([part.weights for part in parts]),
    )


def _scores(objective: RankerLossModule, batch: RankerBatch) -> Tensor:
    """Scores (n, C)."""
    model: Ranker = objective.model.eval()
    with torch.inference_mode():
        items = objective.items()
        places = torch.split(torch.arange(len(batch.candidates)), SCORING)
        return torch.cat([model(batch[part], items) for part in places])


def _stated(candidate_sets: CandidateSets) -> Tensor:
    """The columns (n, C) bool on which probabilities and the pooled AUC are judged: targets and the first kind's negatives."""
    columns = next(iter(candidate_sets.against.values()))[:, 0]  # (n, M)
    nowhere = candidate_sets.real.shape[1]
    chosen = candidate_sets.real.new_zeros(len(candidate_sets), nowhere + 1)
    chosen[:, :TARGETS] = True
    chosen.scatter_(1, torch.where(columns >= 0, columns, nowhere), True)
    return chosen[:, :nowhere] & candidate_sets.real


def _log_loss(p: Tensor, candidate_sets: CandidateSets, stated: Tensor) -> Tensor:
    """Mean of −log p(what happened) over each list (n,)."""
    taken = torch.zeros_like(p)
    taken[:, :TARGETS] = 1
    losses = torch.nn.functional.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), taken, reduction="none")
    return (losses * stated).sum(-1) / stated.sum(-1)


def _pooled_auc(scores: Tensor, candidate_sets: CandidateSets, stated: Tensor) -> float:
    """AUC over all candidate_sets at once: the share of (target, negative) pairs of whatever candidate_sets in the right order."""
    targets = torch.zeros_like(stated)
    targets[:, :TARGETS] = True
    positives, negatives = scores[stated & targets].numpy(), np.sort(scores[stated & ~targets].numpy())
    below = np.searchsorted(negatives, positives, side="left") + np.searchsorted(negatives, positives, side="right")
    return float(below.mean() / 2 / len(negatives))


def _glance(name: str, found: Outcome) -> str:
    kinds = [key.split("|")[1] for key in found if key.startswith(f"{name}|") and key.endswith("|rank")]
    return ", ".join(f"{kind} {np.nanmean(compute_auc(found, name, kind)):.4f}" for kind in kinds)


def compute_auc(outcome: Outcome, name: str, kind: str) -> NDArray[np.float32]:
    """AUC of each target within its list (n, TARGETS)."""
    rivals = np.maximum(outcome[f"{name}|{kind}|rivals"], 1)
    return (1 - (outcome[f"{name}|{kind}|rank"] - 1) / rivals).astype(np.float32)
