"""Training of the ranker: what is a positive, what a negative, what may be known of either, and that it learns."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reaseq.behavior import calibration
from reaseq.behavior.examples import Basket
from reaseq.days import DAY_MS
from reaseq.errors import CatalogError
from reaseq.ranker.latent import SCORES, LatentModels
from reaseq.ranker.model import RankerConfig
from reaseq.ranker.training import RankerExamples, RankerSample, RankerTrainingConfig, build_examples, sampled_softmax, train
from reaseq.records import History, Inferred
from reaseq.representation.trained_ids import TrainedIds
from tests.fakes.catalog import DIM, NOW_MS, VOCABULARY, item, request, table_of
from tests.fakes.ranker import WIDTH, publish_behavior

ITEMS = 80
TABLE = table_of(
    *(item(number) for number in range(ITEMS)),
    item(80, listed_ms=NOW_MS + 5 * DAY_MS),  # listed in the midst of the log
    item(81, status="delisted"),
).snapshot.by_id()
IDS = TrainedIds([f"i{number}" for number in range(60)])
CONFIG = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(IDS), width=16, history=20)
PLAN = RankerTrainingConfig(epochs=2, positives=4, negatives=20)


def samples(count: int = 64) -> list[RankerSample]:
    """Users who take, every third of a day, an item whose number follows on their last one's."""
    found = []
    for place in range(count):
        history = request(place).history
        last = int(history.item_ids[-1][1:])
        taken = (f"i{(last + 1) % ITEMS}", f"i{place % ITEMS}", "i80", "nobody")
        found.append(RankerSample(Basket(f"u{place}", NOW_MS + place * DAY_MS // 3, taken, history), Inferred()))
    return found


def events(some: list[RankerSample]) -> list[tuple[int, str]]:
    return [(sample.basket.time_ms, item_id) for sample in some for item_id in sample.basket.item_ids]


def examples(some: list[RankerSample], models: Path = Path(), config: RankerConfig = CONFIG) -> RankerExamples:
    return build_examples(some, events(some), TABLE, LatentModels(models), config, PLAN)


def test_positives_were_taken_and_listed_before_negatives_listed_before_and_not_taken() -> None:
    some = samples()
    found = examples(some)

    late, gone = TABLE.rows(["i80", "i81"]).tolist()
    for sample, rows, real, weights in zip(some, found.batch.candidates, found.positives, found.weights, strict=True):
        taken = set(TABLE.rows(sample.basket.item_ids).tolist()) - {0}
        if sample.basket.time_ms <= NOW_MS + 5 * DAY_MS:
            taken -= {late}
        assert set(rows[:4][real].tolist()) == taken
        negatives = set(rows[4:].tolist())
        assert not negatives & (taken | {0, gone})
        assert late not in negatives  # taken by everybody once it was there, never on sale before
        assert (weights[:4] > 0).tolist() == real.tolist()
        # Ten evenly drawn negatives stand for all that was on sale; the popular ones only teach.
        assert weights[4:14].sum() == pytest.approx(ITEMS + (sample.basket.time_ms > NOW_MS + 5 * DAY_MS) - len(taken), abs=1)
        assert (weights[14:] == 0).all()


def test_popularity_counts_what_was_strictly_before() -> None:
    some = samples()
    whole = examples(some)
    cut = 20
    changed = [
        *some[:cut],
        *(RankerSample(Basket(s.basket.user_id, s.basket.time_ms, ("i3",), History()), Inferred()) for s in some[cut:]),
    ]

    assert torch.equal(examples(changed).batch.counts[:cut], whole.batch.counts[:cut])
    first = whole.batch.counts[0]
    assert (first == 0).all() and whole.batch.counts[30].any()


def test_a_basket_of_nothing_that_was_listed_before_is_left_out_and_none_at_all_is_said() -> None:
    first = RankerSample(Basket("u", NOW_MS, ("i80", "nobody"), History()), Inferred())

    assert len(examples([first, *samples(3)])) == 3
    with pytest.raises(CatalogError, match="none of 1 baskets"):
        examples([first])


def test_states_are_read_by_the_model_that_left_them(tmp_path: Path) -> None:
    versions = [publish_behavior(tmp_path, seed) for seed in (1, 2)]
    state = np.ones(WIDTH, np.float16).tobytes()
    config = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(IDS), width=16, scores=SCORES)
    some = [
        RankerSample(sample.basket, Inferred(model=versions[place % 2], latent=state) if place else Inferred())
        for place, sample in enumerate(samples(5))
    ]

    found = examples(some, tmp_path, config).batch.scores
    same = [RankerSample(samples(5)[0].basket, Inferred(model=version, latent=state)) for version in versions]

    assert (found[0] == 0).all() and all((found[place] != 0).any() for place in range(1, 5))
    one, other = examples(same, tmp_path, config).batch.scores
    assert not torch.allclose(one, other)


def test_the_loss_is_that_of_each_positive_against_all_negatives() -> None:
    found = examples(samples(2))[torch.tensor([0])]
    scores = torch.linspace(-1, 1, 24).unsqueeze(0)
    real = found.positives[0].nonzero().flatten().tolist()

    rivals = sum(math.exp(float(score)) for score in scores[0, 4:])
    by_hand = [-math.log(math.exp(float(scores[0, p])) / (math.exp(float(scores[0, p])) + rivals)) for p in real]

    assert float(sampled_softmax(scores, found)) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-4)


def test_it_learns_states_probabilities_and_ends_the_same_after_a_stop(tmp_path: Path) -> None:
    some = samples(160)
    found = examples(some)
    places = torch.arange(len(found))
    parts = found[places[:128]], found[places[128:]]
    checkpoint = tmp_path / "checkpoint.safetensors"

    model, curve = train(*parts, TABLE, IDS, CONFIG, PLAN)
    stopped = _stopped_after_an_epoch(parts, PLAN, checkpoint)
    again, curve_again = train(*parts, TABLE, IDS, CONFIG, PLAN, checkpoint)

    assert np.mean(curve.train[-8:]) < np.mean(curve.train[:8]) - 0.3 and len(curve.held_out) == 2
    assert len(stopped) == 16 and curve_again.train == pytest.approx(curve.train, abs=1e-5)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, again.state_dict()[name], atol=1e-5), name
    assert model.calibration[0] > 0 and 0.0 < float(model.probability(torch.tensor(0.0))) < 0.5


class Stop(Exception):
    """A stand-in for a machine that goes away."""


def _stopped_after_an_epoch(
    parts: tuple[RankerExamples, RankerExamples], plan: RankerTrainingConfig, checkpoint: Path
) -> list[float]:
    seen: list[float] = []

    def progress(steps: int, loss: float) -> None:
        if checkpoint.exists() and len(seen) >= 16:
            raise Stop
        seen.append(loss)

    with pytest.raises(Stop):
        train(*parts, TABLE, IDS, CONFIG, plan, checkpoint, progress)
    return seen


def test_platt_scaling_counts_by_weight() -> None:
    p = torch.rand(400, generator=torch.Generator().manual_seed(0))
    came_true = torch.rand(400, generator=torch.Generator().manual_seed(1)) < p
    weights = torch.where(came_true, 1.0, 3.0)
    tripled = torch.cat([p, p[~came_true], p[~came_true]])
    truth = torch.cat([came_true, came_true[~came_true], came_true[~came_true]])

    assert torch.allclose(calibration.fit(p, came_true, weights), calibration.fit(tripled, truth), atol=1e-3)
    stated = calibration.apply(calibration.fit(p, came_true, weights), p)
    assert calibration.expected_error(stated, came_true, weights) < calibration.expected_error(p, came_true, weights)
