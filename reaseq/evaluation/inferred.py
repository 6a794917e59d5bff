"""What inferred behaviours are worth: how many true new behaviours they name, and what their scores add to the ranker.

Global time split into blocks. Whatever speaks about a block was trained or counted before it: the diffusion model, the
left-to-right control, item-kNN. The ranker trains on the blocks before the test and is judged on the test.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reaseq.behavior import diffusion, training
from reaseq.behavior.diffusion import Canvas, Sampling, slots_of
from reaseq.behavior.examples import canvas_of
from reaseq.behavior.lexicon import MASK, Lexicon, tree_of
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.popularity import RecentSales
from reaseq.behavior.sequence import Sequences, sequences_of
from reaseq.behavior.training import Material, TrainingPlan
from reaseq.evaluation import left_to_right
from reaseq.evaluation.intervals import interval
from reaseq.evaluation.item_knn import ItemKnn
from reaseq.evaluation.left_to_right import LeftToRight
from reaseq.evaluation.log import Log
from reaseq.evaluation.recall import BEST, CUTOFFS, Best, recalls
from reaseq.evaluation.slots import (
    POSITIVES,
    Candidates,
    Moment,
    auc,
    draw_candidates,
    moments_of,
    open_to,
    request_of,
    slot_of,
    train_ranker,
)
from reaseq.optimisation import Optimisation
from reaseq.ranker.training import RankerPlan
from reaseq.representation.semantic_ids import fit
from reaseq.representation.trained_ids import TrainedIds

HISTORY_SHARE = 0.1  # of the history that the left-to-right control also learns to tell
POPULARITY, RECENT, KNN_BEHAVIOR, KNN_CONTENT = "popularity", "recent popularity", "item-kNN, co-behaviour", "item-kNN, content"
LEFT_TO_RIGHT, DIFFUSION, DIFFUSION_CODES = "left to right", "diffusion", "diffusion, semantic IDs"
NOTHING, KNN = "nothing", "item-kNN"
SLOTS = (NOTHING, KNN, LEFT_TO_RIGHT, DIFFUSION, f"{KNN} + {LEFT_TO_RIGHT}", f"{KNN} + {DIFFUSION}")
LISTS = ("uniform", "pop", "mat")


@dataclass(frozen=True)
class Study:
    """One data set and how it is cut. The ranker trains on [cuts[0], cuts[-1]), block by block; the test follows."""

    log: Log
    cuts: tuple[int, ...]
    test: tuple[int, int]
    config: BehaviorConfig
    plan: TrainingPlan
    code_sizes: tuple[int, ...]
    moments_limit: int  # of each side, drawn at random where there are more


@dataclass(frozen=True)
class Outcome:
    """One seed: recall of each test moment (n, 2), and of its never-trained targets; AUC of each target by slot (n, P, 3)."""

    recall: dict[str, NDArray[np.float32]]
    recall_cold: dict[str, NDArray[np.float32]]  # NaN where a moment has no cold target
    auc: dict[str, NDArray[np.float32]]


class Evaluation:
    """The lists, drawn once, on which every source and every seed is judged."""

    def __init__(self, study: Study) -> None:
        self.study = study
        log = study.log
        self.sales = RecentSales([(b.time_ms, item_id) for b in log.baskets for item_id in b.item_ids], log.table)
        self.train = self._some(moments_of(log, study.cuts[0], study.cuts[-1]), 1)
        self.test = self._some(moments_of(log, *study.test), 2)
        self.train_lists = draw_candidates(self.train, log.table, self.sales, 1)
        self.test_lists = draw_candidates(self.test, log.table, self.sales, 2)
        self._train_request = request_of(self.train, self.train_lists, log.table, self.sales)
        self._test_request = request_of(self.test, self.test_lists, log.table, self.sales)
        self.known = TrainedIds(sorted({i for b in log.baskets if b.time_ms < study.cuts[-1] for i in b.item_ids}))
        self.unseen = ~torch.isin(torch.arange(len(log.table)), log.table.rows(self.known.item_ids))

    def run(self, seed: int, say: Callable[[str], None]) -> Outcome:
        """Everything that hangs on a seed, and the controls that do not."""
        recall, cold = {}, {}
        for name, best in self._counted():
            recall[name], cold[name] = self._recall(best)
        slots = {KNN: self._slot(self._knn_source)}
        for name, make in ((DIFFUSION, self._diffusion), (LEFT_TO_RIGHT, self._left_to_right)):
            models: list[_Scorer] = []

            def source(cut_ms: int, make: Any = make, models: list["_Scorer"] = models) -> "_Scorer":
                models.append(make(cut_ms, seed))
                return models[-1]

            slots[name] = self._slot(source)
            recall[name], cold[name] = self._recall(models[-1].best)
            say(f"{name}: recall@{BEST} {np.nanmean(recall[name][:, 1]):.4f}")
        codes = self._diffusion(self.study.cuts[-1], seed, self.study.code_sizes)
        recall[DIFFUSION_CODES], cold[DIFFUSION_CODES] = self._recall(codes.best)
        aucs = {}
        for name in SLOTS:
            aucs[name] = self._ranked([slots[part] for part in name.split(" + ") if part != NOTHING], seed)
            say(f"ranker with {name}: " + ", ".join(f"{k} {np.nanmean(aucs[name][..., i]):.4f}" for i, k in enumerate(LISTS)))
        return Outcome(recall, cold, aucs)

    def _some(self, moments: list[Moment], seed: int) -> list[Moment]:
        if len(moments) <= self.study.moments_limit:
            return moments
        kept = np.random.default_rng(seed).choice(len(moments), self.study.moments_limit, replace=False)
        return [moments[place] for place in sorted(kept)]

    def _recall(self, best: Best) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return recalls(best, self.test, self.unseen)

    def _counted(self) -> Iterator[tuple[str, Best]]:
        """The controls that are counted, not trained."""
        knn, table = ItemKnn(self.study.log.baskets, self.study.log.table, self.study.cuts[-1]), self.study.log.table

        def best(score: Callable[[Sequence[Moment]], Tensor]) -> Best:
            return lambda part: score(part).masked_fill(~open_to(part, table), -torch.inf).topk(BEST).indices

        yield POPULARITY, best(lambda part: self.sales.counts(_times(part), 100_000))
        yield RECENT, best(lambda part: self.sales.counts(_times(part)))
        yield KNN_BEHAVIOR, best(lambda part: torch.from_numpy(knn.by_behavior(self._history(part))))
        yield KNN_CONTENT, best(lambda part: torch.from_numpy(knn.by_content(self._history(part))))

    def _history(self, part: Sequence[Moment]) -> Sequences:
        histories = [moment.basket.history for moment in part]
        return sequences_of(histories, _times(part).tolist(), self.study.log.table, self.study.config.history)

    def _slot(self, make: Callable[[int], "_Scorer | Any"]) -> tuple[Tensor, Tensor]:
        """A source's scores of the training lists, each block from what was made before it, and of the test lists."""
        cuts, parts = self.study.cuts, []
        lists = self.train_lists
        for start_ms, end_ms in pairwise(cuts):
            places = [at for at, moment in enumerate(self.train) if start_ms <= moment.basket.time_ms < end_ms]
            block = Candidates(lists.rows[places], lists.real[places], lists.matched[places])
            parts.append(slot_of(make(start_ms), [self.train[at] for at in places], block))
        return torch.cat(parts), slot_of(make(cuts[-1]), self.test, self.test_lists)

    def _knn_source(self, cut_ms: int) -> Callable[[Sequence[Moment]], NDArray[np.float32]]:
        knn = ItemKnn(self.study.log.baskets, self.study.log.table, cut_ms)

        def scores(part: Sequence[Moment]) -> NDArray[np.float32]:
            history = self._history(part)
            return np.stack([np.log1p(100 * knn.by_behavior(history)), 3 * knn.by_content(history)], axis=-1)

        return scores

    def _material(self, cut_ms: int, sizes: tuple[int, ...]) -> tuple[Material, BehaviorConfig]:
        log, config, tree = self.study.log, replace(self.study.config, codes=sizes), None
        if sizes:
            before = log.table.vectors[log.table.listed_ms < cut_ms].numpy()
            book = fit(before, log.name, len(sizes), sizes[0])
            tree = tree_of(book, log.table.vectors, log.name)
        material, ids = training.material_of(log.between(0, cut_ms), log.table, config, tree=tree)
        return replace(material, sales=self.sales), replace(config, items=len(ids))

    def _diffusion(self, cut_ms: int, seed: int, sizes: tuple[int, ...] = ()) -> "_Scorer":
        material, config = self._material(cut_ms, sizes)
        model, _ = training.train(material, config, replace(self.study.plan, seed=seed))
        return _Scorer(self, model, material, _after_history)

    def _left_to_right(self, cut_ms: int, seed: int) -> "_Scorer":
        material, config = self._material(cut_ms, ())
        plan = self.study.plan
        torch.manual_seed(seed)
        model = LeftToRight(config)
        optimisation = Optimisation(model, plan.learning_rate, plan.weight_decay, training.steps_of(len(material.train), plan))
        model.train()
        for _ in range(plan.epochs):
            for places in torch.split(torch.randperm(len(material.train)), plan.batch_baskets):
                lexicon = model.lexicon(material.table, material.ids)
                optimisation.step(left_to_right.loss(model, material.train[places], lexicon, self.sales, HISTORY_SHARE))
        return _Scorer(self, model.eval(), material, left_to_right.next_scores)

    def _ranked(self, slots: list[tuple[Tensor, Tensor]], seed: int) -> NDArray[np.float32]:
        log = self.study.log
        train, test = (torch.cat([slot[side] for slot in slots], dim=-1) if slots else None for side in (0, 1))
        plan = RankerPlan(epochs=1, batch_baskets=64, seed=seed)
        ranker = train_ranker(self._train_request, self.train_lists, train, log, self.known, plan)
        found: NDArray[np.float32] = auc(ranker, self._test_request, self.test_lists, test, log, self.known).numpy()
        return found

    @property
    def cold(self) -> NDArray[np.bool_]:
        """Which targets of the test lists were never trained on (n, P)."""
        found: NDArray[np.bool_] = (self.unseen[self.test_lists.rows[:, :POSITIVES]] & self.test_lists.real).numpy()
        return found


class _Scorer:
    """A trained model as a source: its log-probabilities of every item, with ids and without, and what it infers."""

    def __init__(
        self,
        evaluation: Evaluation,
        model: BehaviorModel,
        material: Material,
        score: Callable[[Any, Canvas, Lexicon], Tensor],
    ) -> None:
        self._evaluation = evaluation
        self._model = model
        self._score = score
        with torch.inference_mode():
            numbers = (material.ids, torch.zeros_like(material.ids))
            self._lexicons = [model.lexicon(material.table, ids, material.tree) for ids in numbers]

    def __call__(self, part: Sequence[Moment]) -> NDArray[np.float32]:
        """Scores (B, N, 2): half the log of how much more likely an item is than one in N; first with trained ids, then by what
        items are alone, which treats one that was never trained on like all others."""
        with torch.inference_mode():
            scores = [self._score(self._model, self._canvas(part, lexicon), lexicon) for lexicon in self._lexicons]
            each = [(torch.log_softmax(of, -1) + np.log(of.shape[-1])) / 2 for of in scores]
        found: NDArray[np.float32] = torch.stack(each, dim=-1).numpy()
        return found

    def best(self, part: Sequence[Moment]) -> Tensor:
        """The rows (B, BEST) that are inferred."""
        lexicon = self._lexicons[0]
        allowed = open_to(part, self._evaluation.study.log.table)
        with torch.inference_mode():
            canvas = self._canvas(part, lexicon)
            if isinstance(self._model, LeftToRight):
                return self._score(self._model, canvas, lexicon).masked_fill(~allowed, -torch.inf).topk(BEST).indices
            slots = slots_of(canvas, BEST)
            return diffusion.denoise(self._model, canvas, lexicon, allowed, slots, Sampling(BEST, steps=1)).rows

    def _canvas(self, part: Sequence[Moment], lexicon: Lexicon) -> Canvas:
        times = _times(part)
        return canvas_of(self._evaluation._history(part), times, lexicon, self._evaluation.sales.prior(times))


def _after_history(model: BehaviorModel, canvas: Canvas, lexicon: Lexicon) -> Tensor:
    """Scores (B, N) of a masked behaviour after the history."""
    slots = slots_of(canvas, 1)
    masked = canvas.followed_by(torch.full((*slots.positions.shape, 1), MASK), slots.positions, slots.gaps)
    return model.logits(model.hidden(masked, lexicon)[:, -1], lexicon, 0, canvas.prior)


def _times(part: Sequence[Moment]) -> Tensor:
    return torch.tensor([moment.basket.time_ms for moment in part])


# ---- what comes out


def report(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Every figure with its interval; gains are paired, target by target."""
    users = np.unique([moment.basket.user_id for moment in evaluation.test], return_inverse=True)[1]
    cold = evaluation.cold

    def estimate(per_seed: list[NDArray[np.float32]]) -> dict[str, float]:
        return asdict(interval(per_seed, users))

    def lists(per_seed: list[NDArray[np.float32]]) -> dict[str, Any]:
        found = {}
        for column, name in enumerate(LISTS):
            found[name] = estimate([values[..., column] for values in per_seed])
            found[f"{name}, cold"] = estimate([np.where(cold, values[..., column], np.nan) for values in per_seed])
        return found

    recalls = {
        name: {
            f"recall_{cutoff}{'_cold' if part == 'recall_cold' else ''}": estimate(
                [getattr(outcome, part)[name][:, column] for outcome in outcomes]
            )
            for part in ("recall", "recall_cold")
            for column, cutoff in enumerate(CUTOFFS)
        }
        for name in outcomes[0].recall
    }
    pairs = [(DIFFUSION, NOTHING), (KNN, NOTHING), (LEFT_TO_RIGHT, NOTHING), (DIFFUSION, LEFT_TO_RIGHT)]
    pairs += [(f"{KNN} + {DIFFUSION}", KNN), (f"{KNN} + {LEFT_TO_RIGHT}", KNN)]
    pairs += [(f"{KNN} + {DIFFUSION}", f"{KNN} + {LEFT_TO_RIGHT}")]
    return {
        "data": evaluation.study.log.name,
        "seeds": len(outcomes),
        "test_moments": len(evaluation.test),
        "test_targets": int(evaluation.test_lists.real.sum()),
        "test_targets_cold": int(cold.sum()),
        "training_moments": len(evaluation.train),
        "recall": recalls,
        "ranker_gauc": {name: lists([outcome.auc[name] for outcome in outcomes]) for name in SLOTS},
        "ranker_gain": {
            f"{more} over {less}": lists([outcome.auc[more] - outcome.auc[less] for outcome in outcomes])
            for more, less in pairs
        },
    }


def save_outcome(outcome: Outcome, path: Path) -> None:
    """Keep one seed's outcome, so that a long evaluation can be stopped."""
    arrays = {f"{part}/{name}": values for part, of in asdict(outcome).items() for name, values in of.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def load_outcome(path: Path) -> Outcome:
    """The inverse of `save_outcome`."""
    parts: dict[str, dict[str, NDArray[np.float32]]] = {"recall": {}, "recall_cold": {}, "auc": {}}
    with np.load(path) as stored:
        for key in stored.files:
            part, name = key.split("/", 1)
            parts[part][name] = stored[key]
    return Outcome(**parts)
