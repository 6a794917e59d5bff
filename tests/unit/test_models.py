"""The item table, the diffusion core, its inference and the ranker, on small random models."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.behavior import diffusion
from reaseq.behavior.history import Question
from reaseq.behavior.inference import BATCH_USERS, BehaviorInference
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import sequences_of
from reaseq.errors import SpaceMismatch
from reaseq.knowledge.vocabulary import vocabulary_in_force
from reaseq.ranker.engine import Engine
from reaseq.ranker.model import Ranker, RankerConfig, TargetAttention
from reaseq.ranker.popularity import DAY_MS, Popularity
from reaseq.records import Claim, History, Inferred, ItemFeatures, ProductKnowledge, UserFeatures
from reaseq.representation.item_table import ItemTable
from reaseq.representation.trained_ids import TrainedIds

DIM, ITEMS, NOW_MS = 16, 300, 1_000 * DAY_MS
VOCABULARY = vocabulary_in_force()


def item(number: int, **changes: object) -> ItemFeatures:
    vector = np.random.default_rng(number).normal(size=DIM)
    category = VOCABULARY.groups[0]
    claim = Claim(category.name, list(category.values)[number % len(category.values)], 1.0, "stand-in")
    fields = {
        "event_time_ms": 1,
        "listed_ms": 1,
        "stage": "reasoned",
        "space_id": "s",
        "vector": (vector / np.linalg.norm(vector)).astype(np.float16).tobytes(),
        "knowledge": ProductKnowledge(vocabulary=VOCABULARY.version, claims=(claim,)),
    }
    return ItemFeatures(item_id=f"i{number}", **(fields | changes))  # type: ignore[arg-type]


def table_of(*items: ItemFeatures) -> ItemTable:
    table = ItemTable(VOCABULARY, "s", DIM)
    table.apply(items)
    return table


def inference(table: ItemTable, places: int = 6) -> BehaviorInference:
    torch.manual_seed(0)
    ids = TrainedIds([f"i{number}" for number in range(ITEMS - 50)])
    config = BehaviorConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(ids), width=32, history=12)
    return BehaviorInference(BehaviorModel(config).eval(), ids, "v1", table, places)


def question(seed: int) -> Question:
    rows = np.random.default_rng(seed).choice(ITEMS, size=seed % 20 + 1, replace=False)
    times = tuple(NOW_MS - DAY_MS * back for back in range(len(rows), 0, -1))
    history = History(
        item_ids=tuple(f"i{row}" for row in rows), types=(4,) * len(rows), times_ms=times, event_keys=tuple(range(len(rows)))
    )
    return Question(history, NOW_MS, len(rows))


CATALOGUE = table_of(*(item(number) for number in range(ITEMS)))


def test_the_table_keeps_the_newest_of_each_item() -> None:
    table = table_of(item(1, event_time_ms=5, price=5.0))

    assert table.apply([item(1, event_time_ms=4, price=4.0), item(1, event_time_ms=5, stage="text")]) == 0
    assert table.apply([item(1, event_time_ms=5, stage="delisted")]) == 1
    assert table.snapshot.prices[1] == 5.0
    assert not table.snapshot.live[1]


def test_by_id_equal_catalogues_are_equal_tables_in_whatever_order_they_came() -> None:
    items = [item(number) for number in range(ITEMS)]
    one, other = table_of(*items).snapshot.by_id(), table_of(*reversed(items)).snapshot.by_id()

    assert one.ids == other.ids == ["", *sorted(item.item_id for item in items)]
    assert one.index == other.index
    for name in ("vectors", "claims", "confidences", "prices", "listed_ms", "live"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.rows(["i3"]).item() == one.ids.index("i3")


def test_a_snapshot_never_changes() -> None:
    table = table_of(item(1))
    before = table.snapshot
    vectors = before.vectors.clone()

    table.apply([item(2), item(1, event_time_ms=9, price=3.0)])

    assert torch.equal(before.vectors, vectors)
    assert before.rows(["i2"]).tolist() == [0]
    assert table.snapshot.rows(["i1", "i2", "nobody"]).tolist() == [1, 2, 0]


def test_spaces_are_not_mixed() -> None:
    with pytest.raises(SpaceMismatch, match="other"):
        table_of(item(1, space_id="other"))


def test_the_mask_rate_follows_t() -> None:
    response = torch.ones(4000, 50, dtype=torch.long)

    masked, t = diffusion.mask(response, torch.Generator().manual_seed(1))

    rate = (masked == diffusion.MASK).float().mean(1, keepdim=True)
    assert diffusion.MIN_MASK_RATE <= float(t.min()) and float(t.max()) <= 1
    assert abs(float((rate - t).mean())) < 0.01
    assert float(torch.corrcoef(torch.cat([rate, t], 1).T)[0, 1]) > 0.95


def test_what_is_absent_is_never_masked() -> None:
    masked, _ = diffusion.mask(torch.full((100, 5), diffusion.ABSENT))

    assert (masked == diffusion.ABSENT).all()


def test_the_loss_weighs_masked_tokens_by_one_over_t() -> None:
    class Fixed:
        """A stand-in for the network: its hidden states are its logits."""

        def hidden(self, history: object, response: object, items: object) -> torch.Tensor:
            return logits

        def logits(self, hidden: torch.Tensor, items: object) -> torch.Tensor:
            return hidden

    logits = torch.randn(2, 2, 5)
    response = torch.tensor([[1, 2], [3, diffusion.ABSENT]])
    masked = torch.tensor([[diffusion.MASK, 2], [diffusion.MASK, diffusion.ABSENT]])
    t = torch.tensor([[0.5], [0.25]])

    log_p = torch.log_softmax(logits, -1)
    by_hand = (-log_p[0, 0, 1] / 0.5 - log_p[1, 0, 3] / 0.25) / 3

    history, items = sequences_of([], [], CATALOGUE.snapshot, 1), (torch.empty(0), torch.empty(0))
    assert torch.allclose(diffusion.loss(Fixed(), history, response, items, masked, t), by_hand)


def test_inferred_are_items_on_sale_that_the_log_does_not_have_each_once() -> None:
    table = table_of(
        *(item(number) for number in range(40)),
        item(40, stage="delisted"),
        item(41, listed_ms=NOW_MS + 1),
    )
    asked = Question(History(item_ids=("i1", "i2"), types=(4, 4), times_ms=(1, 2), event_keys=(1, 2)), NOW_MS, 2)

    (answer,) = inference(table, places=60).infer([asked])

    assert sorted(answer.item_ids) == sorted({f"i{number}" for number in range(40)} - {"i1", "i2"})
    assert list(answer.confidences) == sorted(answer.confidences, reverse=True)


def test_an_empty_catalogue_infers_nothing() -> None:
    (answer,) = inference(table_of()).infer([question(1)])

    assert answer.item_ids == ()


def test_a_users_result_does_not_depend_on_the_batch() -> None:
    model = inference(CATALOGUE)
    questions = [question(seed) for seed in range(3 * BATCH_USERS + 1)]

    alone = [model.infer([one])[0] for one in questions]

    assert model.infer(questions) == alone
    assert model.infer(questions[::-1])[::-1] == alone


def test_nor_on_the_order_in_which_items_arrived() -> None:
    shuffled = [item(int(number)) for number in np.random.default_rng(1).permutation(ITEMS)]

    assert inference(table_of(*shuffled)).infer([question(7)]) == inference(CATALOGUE).infer([question(7)])


def test_sequences_hold_the_latest_behaviours_on_the_right() -> None:
    sequences = sequences_of([question(3).history], [NOW_MS], CATALOGUE.snapshot, length=6)

    assert sequences.rows[0, :2].tolist() == [0, 0]
    assert sequences.rows[0, 2:].tolist() == CATALOGUE.snapshot.rows(question(3).history.item_ids).tolist()
    assert sequences.gaps[0].tolist() == [0, 0, 7, 7, 6, 5]  # four, three, two and one day in hours, by powers of two


def test_attention_does_not_see_what_the_gate_hides() -> None:
    attention = TargetAttention(8)
    candidates, sequence = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    gate = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    changed = sequence.clone()
    changed[0, 1] = 100.0

    assert torch.allclose(attention(candidates, sequence, gate), attention(candidates, changed, gate), atol=1e-5)
    assert (attention(candidates, sequence, torch.zeros(1, 4)) == 0).all()


def engine(**changes: bool) -> Engine:
    torch.manual_seed(0)
    ids = TrainedIds([f"i{number}" for number in range(ITEMS - 50)])
    config = RankerConfig(vector_dim=DIM, claims=VOCABULARY.size, items=len(ids), width=16, **changes)
    popularity = Popularity()
    for row in range(1, 100):
        popularity.observe(row, NOW_MS - row * DAY_MS // 2)
    return Engine(Ranker(config), ids, "v1", CATALOGUE, popularity)


USER = UserFeatures(
    user_id="u",
    event_time_ms=1,
    events_seen=1,
    history=question(9).history,
    inferred=Inferred(item_ids=("i5", "i6"), confidences=(0.4, 0.1)),
)


@pytest.mark.parametrize("changes", [{}, {"semantic": False, "reads_inferred": False}, {"reads_inferred": False}])
def test_a_candidates_score_does_not_depend_on_the_others(changes: dict[str, bool]) -> None:
    ranker = engine(**changes)
    together = ranker.score(USER, ["i1", "i5", "i290", "nobody"], NOW_MS)

    for place, item_id in enumerate(["i1", "i5", "i290", "nobody"]):
        assert np.allclose(ranker.score(USER, [item_id], NOW_MS)[0], together[place], atol=1e-5)


def test_a_user_without_features_is_ranked_by_context() -> None:
    scores = engine().score(None, [f"i{number}" for number in range(50)], NOW_MS)

    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 10


def test_inferred_behaviours_change_the_score_of_their_items() -> None:
    without = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history)

    assert not np.allclose(engine().score(USER, ["i5"], NOW_MS), engine().score(without, ["i5"], NOW_MS))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(900, 1000)), max_size=60))
@settings(max_examples=50, deadline=None)
def test_popularity_counts_like_a_recount(seen: list[tuple[int, int]]) -> None:
    popularity = Popularity()
    for row, day in seen:
        popularity.observe(row, day * DAY_MS + 5)

    today = max((day for _, day in seen), default=0)
    counts = popularity.counts(np.arange(6))

    for row in range(6):
        days = [day for seen_row, day in seen if seen_row == row]
        assert counts[row].tolist() == [len(days), sum(d > today - 7 for d in days), sum(d > today - 30 for d in days)]
