"""Training of the ranker: positives, negatives, point-in-time popularity, and that it learns and resumes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reaseq import float16
from reaseq.aggregates import BUILT_IN, LoggedAggregates
from reaseq.behavior import calibration
from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.errors import CatalogError
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import Ranker, RankerConfig
from reaseq.ranker.numbers import POPULARITY
from reaseq.ranker.training import (
    RankerExamples,
    RankerLossModule,
    RankerSample,
    RankerTrainingConfig,
    build_examples,
    catch_up,
    sampled_softmax,
    score,
    train,
)
from reaseq.ranker.training_data import purchases_in
from reaseq.records import History, Inferred
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import DIM, NOW_MS, VOCABULARY, build_table, item, request
from tests.fakes.ranker import WIDTH, publish_behavior

ITEMS = 80
TABLE = build_table(
    *(item(number) for number in range(ITEMS)),
    item(80, listed_ms=NOW_MS + 5 * DAY_MS),  # listed in the middle of the log
    item(81, status="delisted"),
).snapshot.by_id()
IDS = TrainedIds([f"i{number}" for number in range(60)])
SIZES = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(IDS), width=16, history=20)
CONFIG = RankerTrainingConfig(
    epochs=2, batch_baskets=8, positives=4, uniform_negatives=10, popular_negatives=7, own_negatives=3, learning_rate=6e-3
)


def samples(count: int = 64) -> list[RankerSample]:
    """Baskets a third of a day apart; each has the item whose number follows the last one in the history."""
    samples = []
    for number in range(count):
        history = request(number).history
        last = int(history.item_ids[-1][1:])
        item_ids = (f"i{(last + 1) % ITEMS}", f"i{number % ITEMS}", "i80", "nobody")
        samples.append(RankerSample(Basket(f"u{number}", NOW_MS + number * DAY_MS // 3, item_ids, history), Inferred()))
    return samples


def aggregates(log: list[RankerSample]) -> LoggedAggregates:
    events = purchases_in([sample.basket for sample in log])
    return LoggedAggregates(BUILT_IN, events, TABLE.rows(events.item_ids).numpy())


def examples(log: list[RankerSample], models: Path = Path(), sizes: RankerConfig = SIZES) -> RankerExamples:
    return build_examples(log, aggregates(log), TABLE, LatentModels(models), sizes, CONFIG)


def test_candidates_were_listed_before_the_basket_and_negatives_are_not_in_it() -> None:
    log = samples()
    built = examples(log)

    late, delisted = TABLE.rows(["i80", "i81"]).tolist()
    columns = (built.batch.candidates, built.positives, built.negatives, built.weights)
    for sample, rows, real, exists, weights in zip(log, *columns, strict=True):
        positives = set(TABLE.rows(sample.basket.item_ids).tolist()) - {0}
        if sample.basket.time_ms <= NOW_MS + 5 * DAY_MS:
            positives -= {late}
        assert set(rows[:4][real].tolist()) == positives
        negatives = set(rows[4:][exists].tolist())
        assert not negatives & (positives | {0, delisted})
        own = set(TABLE.rows(sample.basket.history.item_ids).tolist()) - positives - {0}
        assert exists[:17].all() and set(rows[21:][exists[17:]].tolist()) <= own and exists[17:].sum() == min(3, len(own))
        assert late not in negatives  # it is in every basket, and was not on sale before
        assert (weights[:4] > 0).tolist() == real.tolist()
        # The ten uniform negatives stand for everything on sale; the popular ones are only for training.
        on_sale = ITEMS + (sample.basket.time_ms > NOW_MS + 5 * DAY_MS)
        assert weights[4:14].sum() == pytest.approx(on_sale - len(positives), abs=1)
        assert (weights[14:] == 0).all()


def test_popularity_counts_events_strictly_before_the_basket() -> None:
    log = samples()
    original = examples(log)
    cut = 20
    changed = [
        *log[:cut],
        *(RankerSample(Basket(s.basket.user_id, s.basket.time_ms, ("i3",), History()), Inferred()) for s in log[cut:]),
    ]

    popularity = original.batch.numbers[..., POPULARITY]
    assert torch.equal(examples(changed).batch.numbers[:cut, :, POPULARITY], popularity[:cut])
    assert (popularity[0] == 0).all() and popularity[30].any()


def test_basket_without_earlier_listed_items_is_left_out() -> None:
    first = RankerSample(Basket("u", NOW_MS, ("i80", "nobody"), History()), Inferred())

    assert len(examples([first, *samples(3)])) == 3
    with pytest.raises(CatalogError, match="none of 1 baskets"):
        examples([first])


def test_latent_state_is_read_by_the_model_that_produced_it(tmp_path: Path) -> None:
    versions = [publish_behavior(tmp_path, seed) for seed in (1, 2)]
    state = float16.pack(np.ones(WIDTH))
    sizes = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(IDS), width=16, scores=SCORES)
    log = [
        RankerSample(sample.basket, Inferred(model=versions[number % 2], latent=state) if number else Inferred())
        for number, sample in enumerate(samples(5))
    ]

    scores = examples(log, tmp_path, sizes).batch.numbers[..., sizes.score_columns]
    same = [RankerSample(samples(5)[0].basket, Inferred(model=version, latent=state)) for version in versions]

    assert (scores[0] == 0).all() and all((scores[number] != 0).any() for number in range(1, 5))
    one, other = examples(same, tmp_path, sizes).batch.numbers[..., sizes.score_columns]
    assert not torch.allclose(one, other)


def test_sum_over_drawn_negatives_estimates_the_sum_over_all_items() -> None:
    """Σ 1 / q over the drawn negatives, q being how often each is drawn on average, is close to their number."""
    built = examples(samples(40))

    estimates = (torch.exp(-built.log_q) * built.negatives).sum(1)
    assert float(estimates.mean()) == pytest.approx(ITEMS - 2, rel=0.05)


def test_loss_compares_each_positive_with_all_negatives() -> None:
    example = examples(samples(2))[torch.tensor([0])]
    scores = torch.linspace(-1, 1, 24).unsqueeze(0)
    positives = example.positives[0].nonzero().flatten().tolist()

    drawn = zip(scores[0, 4:], example.log_q[0], example.negatives[0], strict=True)
    negatives = sum(math.exp(float(score - log_q)) for score, log_q, exists in drawn if exists)
    losses = [-math.log(math.exp(float(scores[0, p])) / (math.exp(float(scores[0, p])) + negatives)) for p in positives]

    assert float(sampled_softmax(scores, example)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_training_learns_calibrates_and_resumes(tmp_path: Path) -> None:
    built = examples(samples(160))
    index = torch.arange(len(built))
    parts = built[index[:128]], built[index[128:]]
    checkpoint = tmp_path / "checkpoint.safetensors"

    model, curve = train(*parts, TABLE, IDS, SIZES, CONFIG)
    losses = _train_one_epoch(parts, checkpoint)
    resumed, resumed_curve = train(*parts, TABLE, IDS, SIZES, CONFIG, checkpoint)

    assert np.mean(curve.train[-8:]) < np.mean(curve.train[:8]) - 0.3 and len(curve.held_out) == 2
    assert len(losses) == 16 and resumed_curve.train == pytest.approx(curve.train, abs=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, resumed.state_dict()[name], atol=1e-5), name
    held_out = parts[1]
    probabilities = model.probability(score(RankerLossModule(model, held_out, TABLE, IDS, torch.device("cpu")), held_out))
    positives = (held_out.labels * held_out.weights).sum()
    assert model.calibration[0] > 0 and float((probabilities * held_out.weights).sum() / positives) == pytest.approx(1, abs=0.1)


class Stop(Exception):
    """Stops training as a lost machine would."""


def test_catching_up_learns_from_the_latest_baskets_and_keeps_the_calibration() -> None:
    log = samples()
    earlier, latest = examples(log[:48]), examples(log[48:])
    model, _ = train(earlier, latest, TABLE, IDS, SIZES, CONFIG)
    calibration_before = model.calibration.clone()
    before = _mean_loss(model, latest)

    catch_up(model, latest, TABLE, IDS, CONFIG)

    assert _mean_loss(model, latest) < before - 0.05
    assert torch.equal(model.calibration, calibration_before) and not model.training


def _mean_loss(model: Ranker, latest: RankerExamples) -> float:
    loss_module = RankerLossModule(model, latest, TABLE, IDS, torch.device("cpu"))
    return float(sampled_softmax(score(loss_module, latest), latest))


def _train_one_epoch(parts: tuple[RankerExamples, RankerExamples], checkpoint: Path) -> list[float]:
    """The losses of a run that is stopped after its first checkpoint."""
    losses: list[float] = []

    def progress(steps: int, loss: float) -> None:
        if checkpoint.exists() and len(losses) >= 16:
            raise Stop
        losses.append(loss)

    with pytest.raises(Stop):
        train(*parts, TABLE, IDS, SIZES, CONFIG, checkpoint, progress)
    return losses


def test_platt_scaling_weights_observations() -> None:
    p = torch.rand(400, generator=torch.Generator().manual_seed(0))
    came_true = torch.rand(400, generator=torch.Generator().manual_seed(1)) < p
    weights = torch.where(came_true, 1.0, 3.0)
    tripled = torch.cat([p, p[~came_true], p[~came_true]])
    outcomes = torch.cat([came_true, came_true[~came_true], came_true[~came_true]])

    assert torch.allclose(calibration.fit(p, came_true, weights), calibration.fit(tripled, outcomes), atol=1e-3)
    stated = calibration.apply(calibration.fit(p, came_true, weights), p)
    assert calibration.expected_error(stated, came_true, weights) < calibration.expected_error(p, came_true, weights)
