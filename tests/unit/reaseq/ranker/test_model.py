"""The ranker and its engine, on small random models: what scores depend on, and what they must not depend on."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from reaseq.artifacts import current
from reaseq.days import DAY_MS
from reaseq.errors import ArtifactError
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import TargetAttention
from reaseq.records import History, Inferred, UserFeatures
from tests.fakes.catalog import CATALOG, NOW_MS, build_table, item, request
from tests.fakes.ranker import USER, aggregates, engine, publish_ranker

CANDIDATES = ["i1", "i5", "i290", "nobody"]
VARIANTS: list[dict[str, int]] = [
    {},
    {"vector_dim": 0, "claims": 1, "inferred": 0},
    {"inferred": 0},
    {"claims": 1},
    {"vector_dim": 0},
    {"search": 3},
    {"own_items": False, "price": False},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_score_depends_on_neither_the_other_candidates_nor_the_batch(changes: dict[str, int]) -> None:
    ranker, table = engine(CATALOG, None, 0, **changes), CATALOG.snapshot
    together = ranker.score(USER, CANDIDATES, NOW_MS)

    for index, item_id in enumerate(CANDIDATES):
        assert np.allclose(ranker.score(USER, [item_id], NOW_MS)[0], together[index], atol=1e-6)
    queries = [ScoringQuery(None, table.rows(["i7"]), NOW_MS), ScoringQuery(USER, table.rows(CANDIDATES), NOW_MS)]
    batched = ranker.score_all(queries, table)
    assert np.allclose(batched[1].probabilities, together, atol=1e-6) and len(batched[0].probabilities) == 1
    assert ((together > 0) & (together < 1)).all()


def test_user_without_features_is_ranked_by_context() -> None:
    scores = engine().score(None, [f"i{number}" for number in range(50)], NOW_MS)

    assert np.isfinite(scores).all() and len(set(scores.tolist())) > 10


def test_inferred_behavior_changes_the_score_of_its_item_by_its_confidence() -> None:
    def score(confidence: float) -> float:
        inferred = Inferred(item_ids=("i5",), confidences=(confidence,)) if confidence else Inferred()
        user = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history, inferred=inferred)
        return float(engine().score(user, ["i5"], NOW_MS)[0])

    without, low, high = score(0), score(1e-4), score(0.9)
    assert abs(high - without) > abs(low - without) > 0


def test_unknown_inferred_item_changes_nothing() -> None:
    unknown = Inferred(item_ids=("nobody",), confidences=(0.9,))
    user = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history, inferred=unknown)
    without = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history)

    assert np.array_equal(engine().score(user, CANDIDATES, NOW_MS), engine().score(without, CANDIDATES, NOW_MS))


def test_search_as_large_as_the_history_attends_to_all_of_it() -> None:
    behaviors = len(request(9).history.item_ids)

    everything, searched = engine(history=behaviors + 5), engine(history=behaviors + 5, search=behaviors)
    few = engine(history=behaviors + 5, search=1)

    assert np.allclose(everything.score(USER, CANDIDATES, NOW_MS), searched.score(USER, CANDIDATES, NOW_MS), atol=1e-6)
    assert not np.allclose(everything.score(USER, CANDIDATES, NOW_MS), few.score(USER, CANDIDATES, NOW_MS), atol=1e-6)


def test_attention_uses_only_the_given_indices() -> None:
    attention, sequence, gate = TargetAttention(8), torch.randn(1, 4, 8), torch.ones(1, 4)
    candidates, indices = torch.randn(1, 2, 8), torch.tensor([[[0, 2], [1, 3]]])
    changed = sequence.clone()
    changed[0, 1] = 50.0

    before, after = (attention(candidates, values, gate, indices) for values in (sequence, changed))

    assert torch.allclose(before[0, 0], after[0, 0], atol=1e-6) and not torch.allclose(before[0, 1], after[0, 1], atol=1e-2)
    cut = attention(candidates, sequence[:, [0, 2]], gate[:, :2])
    assert torch.allclose(before[0, 0], cut[0, 0], atol=1e-6)


def test_claim_features_are_the_lifts_of_the_shared_claims() -> None:
    ranker = engine()
    model, table = ranker._model, CATALOG.snapshot
    user = UserFeatures(
        user_id="u",
        event_time_ms=1,
        events_seen=2,
        # The claim depends on the item's number: only i1 in the history shares its claim with the candidate i1.
        history=History(item_ids=("i1", "i2"), types=(4, 4), times_ms=(NOW_MS - DAY_MS,) * 2, event_keys=(1, 2)),
    )
    batch, _ = ranker.batch([ScoringQuery(user, table.rows(["i1", "i290"]), NOW_MS)], table)
    items = ranker.items(table)
    features = model._claim_features(batch.history, items, items.slots[batch.candidates], items.slots[batch.history.rows])

    claim = int(table.contents.claims[table.slots[table.rows(["i1"])[0]], 0])
    lift = math.log((0.5 + 0.01) / (float(model.claim_rates[claim]) + 0.01))  # half of the history has it
    assert features[0, 0, 1].item() == pytest.approx(lift, abs=1e-4) and features[0, 0, 0] == 0  # its weight starts at zero


def test_only_updated_items_are_embedded_again() -> None:
    table = build_table(*(item(number) for number in range(60)))
    ranker = engine(table)
    before = ranker.score(USER, ["i3", "i4"], NOW_MS)
    embedded = ranker.items(table.snapshot)

    table.apply([item(3, event_time_ms=9, vector=item(33).vector), item(70)])
    with torch.inference_mode():
        again = ranker.items(table.snapshot)
    changed = ranker.score(USER, ["i3", "i4", "i70"], NOW_MS)

    assert torch.equal(again.content_embeddings[: len(embedded.content_embeddings)], embedded.content_embeddings)
    assert len(again.content_embeddings) == len(embedded.content_embeddings) + 2
    assert changed[0] != before[0] and np.allclose(changed[:2], engine(table).score(USER, ["i3", "i4"], NOW_MS), atol=1e-6)


def test_older_snapshot_reuses_the_newer_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    table = build_table(*(item(number) for number in range(60)))
    ranker, older = engine(table), table.snapshot
    before = ranker.items(older)
    table.apply([item(70)])
    newer = ranker.items(table.snapshot)
    monkeypatch.setattr(ranker._embedded, "_derive", None)

    again = ranker.items(older)

    assert torch.equal(again.content_embeddings, newer.content_embeddings) and torch.equal(
        again.content_embeddings[:61], before.content_embeddings
    )
    assert torch.equal(ranker.items(table.snapshot).content_embeddings, newer.content_embeddings)


def test_ranker_trained_on_other_features_is_rejected(tmp_path: Path) -> None:
    publish_ranker(tmp_path, features="of another version")

    with pytest.raises(ArtifactError, match="another version"):
        Engine.load(current(tmp_path, RANKER), CATALOG, aggregates(), LatentModels(tmp_path))
