"""The ranker and its engine, on small random models: what a score may hang on, and what it must not."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reaseq.artifacts import current, load_version
from reaseq.behavior.inference import KIND as BEHAVIOR
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.days import DAY_MS
from reaseq.errors import ArtifactError
from reaseq.model_artifacts import load_sizes, load_weights
from reaseq.ranker import popularity as popular
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine, ScoringQuery
from reaseq.ranker.explain import explain
from reaseq.ranker.latent import LatentModels
from reaseq.ranker.model import TargetAttention
from reaseq.ranker.popularity import HALF_LIVES_DAYS, Popularity
from reaseq.records import History, Inferred, UserFeatures
from tests.fakes.catalog import CATALOG, ITEMS, NOW_MS, item, request, table_of
from tests.fakes.ranker import IDS, USER, WIDTH, engine, popularity, publish_behavior, publish_ranker

ASKED = ["i1", "i5", "i290", "nobody"]
VARIANTS: list[dict[str, int]] = [
    {},
    {"vector_dim": 0, "claims": 1, "inferred": 0},
    {"inferred": 0},
    {"claims": 1},
    {"vector_dim": 0},
    {"search": 3},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_candidates_score_hangs_on_neither_the_others_nor_the_batch(changes: dict[str, int]) -> None:
    ranker, table = engine(CATALOG, None, 0, **changes), CATALOG.snapshot
    together = ranker.score(USER, ASKED, NOW_MS)

    for place, item_id in enumerate(ASKED):
        assert np.allclose(ranker.score(USER, [item_id], NOW_MS)[0], together[place], atol=1e-6)
    queries = [ScoringQuery(None, table.rows(["i7"]), NOW_MS), ScoringQuery(USER, table.rows(ASKED), NOW_MS)]
    batched = ranker.score_all(queries, table)
    assert np.allclose(batched[1].probabilities, together, atol=1e-6) and len(batched[0].probabilities) == 1
    assert ((together > 0) & (together < 1)).all()


def test_a_user_without_features_is_ranked_by_context() -> None:
    scores = engine().score(None, [f"i{number}" for number in range(50)], NOW_MS)

    assert np.isfinite(scores).all() and len(set(scores.tolist())) > 10


def test_inferred_behaviors_change_the_score_of_their_items_by_as_much_as_they_are_sure() -> None:
    def score(confidence: float) -> float:
        sure = Inferred(item_ids=("i5",), confidences=(confidence,)) if confidence else Inferred()
        user = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history, inferred=sure)
        return float(engine().score(user, ["i5"], NOW_MS)[0])

    without, hardly, surely = score(0), score(1e-4), score(0.9)
    assert abs(surely - without) > abs(hardly - without) > 0


def test_an_inferred_item_that_the_table_does_not_know_says_nothing() -> None:
    unknown = Inferred(item_ids=("nobody",), confidences=(0.9,))
    user = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history, inferred=unknown)
    without = UserFeatures(user_id="u", event_time_ms=1, events_seen=1, history=USER.history)

    assert np.array_equal(engine().score(user, ASKED, NOW_MS), engine().score(without, ASKED, NOW_MS))


def test_searching_as_many_behaviors_as_there_are_is_attending_to_all_of_them() -> None:
    behaviors = len(request(9).history.item_ids)

    everything, searched = engine(history=behaviors + 5), engine(history=behaviors + 5, search=behaviors)
    few = engine(history=behaviors + 5, search=1)

    assert np.allclose(everything.score(USER, ASKED, NOW_MS), searched.score(USER, ASKED, NOW_MS), atol=1e-6)
    assert not np.allclose(everything.score(USER, ASKED, NOW_MS), few.score(USER, ASKED, NOW_MS), atol=1e-6)


def test_a_search_attends_to_the_chosen_places_alone() -> None:
    attention, sequence, gate = TargetAttention(8), torch.randn(1, 4, 8), torch.ones(1, 4)
    candidates, places = torch.randn(1, 2, 8), torch.tensor([[[0, 2], [1, 3]]])
    changed = sequence.clone()
    changed[0, 1] = 50.0

    before, after = (attention(candidates, of, gate, places) for of in (sequence, changed))

    assert torch.allclose(before[0, 0], after[0, 0], atol=1e-6) and not torch.allclose(before[0, 1], after[0, 1], atol=1e-2)
    cut = attention(candidates, sequence[:, [0, 2]], gate[:, :2])
    assert torch.allclose(before[0, 0], cut[0, 0], atol=1e-6)


def test_what_a_history_shares_with_a_candidates_claims_is_by_hand_what_the_model_is_told() -> None:
    ranker = engine()
    model, table = ranker._model, CATALOG.snapshot
    user = UserFeatures(
        user_id="u",
        event_time_ms=1,
        events_seen=2,
        # A claim hangs on the number modulo the values of the first group: i1 and i1 again bear the same one.
        history=History(item_ids=("i1", "i2"), types=(4, 4), times_ms=(NOW_MS - DAY_MS,) * 2, event_keys=(1, 2)),
    )
    batch, _ = ranker.batch([ScoringQuery(user, table.rows(["i1", "i290"]), NOW_MS)], table)
    items = ranker.items(table)
    found = model._by_claims(batch.history, items, items.slots[batch.candidates], items.slots[batch.history.rows])

    claim = int(table.contents.claims[table.slots[table.rows(["i1"])[0]], 0])
    lift = math.log((0.5 + 0.01) / (float(model.claim_rates[claim]) + 0.01))  # half of the history bears it
    assert found[0, 0, 1].item() == pytest.approx(lift, abs=1e-4) and found[0, 0, 0] == 0  # weights begin at zero


def test_an_updated_item_is_embedded_anew_and_nothing_else() -> None:
    table = table_of(*(item(number) for number in range(60)))
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


def test_who_asks_with_an_older_table_has_nothing_embedded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(*(item(number) for number in range(60)))
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


# ---- latent states


def test_latent_scores_are_how_much_more_likely_items_are_than_on_average(tmp_path: Path) -> None:
    version = publish_behavior(tmp_path)
    artifact = load_version(tmp_path, BEHAVIOR, version)
    model = load_weights(artifact, BehaviorModel(msgspec.convert(load_sizes(artifact), BehaviorConfig)))
    table = CATALOG.snapshot
    state = np.random.default_rng(0).normal(size=WIDTH).astype(np.float16)
    latents = LatentModels(tmp_path)
    latents.load(version)
    rows = table.rows(["i1", "i299"]).unsqueeze(0)

    found, read = latents.scores([Inferred(model=version, latent=state.tobytes())], rows, table)

    assert read == [True]
    for column, numbers in enumerate((IDS.number(table), torch.zeros(len(table), dtype=torch.long))):
        with torch.inference_mode():
            hidden = torch.from_numpy(state).float()
            p = torch.log_softmax(model.logits(hidden, model.token_table(table, numbers), 0, None)[1:], dim=-1)
        by_hand = (p - p.mean())[rows[0] - 1] / 2
        assert torch.allclose(found[0, :, column], by_hand, atol=1e-4)


def test_a_state_of_a_model_that_is_not_at_hand_says_nothing_until_it_is_loaded(tmp_path: Path) -> None:
    one, other = publish_behavior(tmp_path, 1), publish_behavior(tmp_path, 2)
    latents = LatentModels(tmp_path)
    latents.load(one)
    state = np.ones(WIDTH, np.float16).tobytes()
    users = [Inferred(model=one, latent=state), Inferred(model=other, latent=state), Inferred(model="gone", latent=state)]
    rows = CATALOG.snapshot.rows(["i1", "i2"]).expand(3, -1)

    before, read = latents.scores(users, rows, CATALOG.snapshot)
    latents.load_wanted()
    after, read_then = latents.scores(users, rows, CATALOG.snapshot)

    assert read == [True, False, False] and read_then == [True, True, False]
    assert (before[1] == 0).all() and (after[1] != 0).all() and (after[2] == 0).all()
    assert torch.equal(before[0], after[0])


def test_a_ranker_trained_on_other_features_is_refused(tmp_path: Path) -> None:
    publish_ranker(tmp_path, features="of another version")

    with pytest.raises(ArtifactError, match="another version"):
        Engine.load(current(tmp_path, RANKER), CATALOG, popularity(), LatentModels(tmp_path))


# ---- explanation


def test_a_behavior_carried_what_the_score_loses_without_it() -> None:
    ranker = engine()
    (found,) = explain(ranker, USER, ["i5"], NOW_MS)
    whole = math.log(found.probability / (1 - found.probability))

    assert len(found.behaviors) == len(USER.history.item_ids) + 2
    inferred = {carried.item_id: carried for carried in found.behaviors if carried.time_ms is None}
    assert set(inferred) == {"i5", "i6"} and inferred["i5"].confidence == pytest.approx(0.4)
    without = msgspec.structs.replace(USER, inferred=Inferred(item_ids=("i6",), confidences=(0.1,)))
    p = float(ranker.score(without, ["i5"], NOW_MS)[0])
    assert inferred["i5"].log_odds == pytest.approx(whole - math.log(p / (1 - p)), abs=1e-3)
    nobody = float(ranker.score(msgspec.structs.replace(USER, history=History()), ["i5"], NOW_MS)[0])
    assert found.groups["real behaviors"] == pytest.approx(whole - math.log(nobody / (1 - nobody)), abs=1e-3)
    assert found.history_time_ms == USER.history.times_ms[-1] and found.item_time_ms == 1


def test_a_user_of_whom_nothing_is_known_is_explained_by_context() -> None:
    (found,) = explain(engine(), None, ["i5"], NOW_MS)

    assert found.behaviors == () and found.groups["real behaviors"] == 0 and found.groups["recent popularity"] != 0


# ---- popularity


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(900, 2500), st.integers(0, 30)), max_size=60))
@settings(max_examples=80, deadline=None)
def test_popularity_is_what_a_recount_says_whatever_came_late_or_twice(seen: list[tuple[int, int, int]]) -> None:
    counted = Popularity()
    for row, day, key in seen:
        counted.observe(np.array([row]), [day * DAY_MS + key], [key])

    now_ms = 2600 * DAY_MS
    first: dict[int, tuple[int, int]] = {}
    for row, day, key in seen:
        first.setdefault(key, (row, day * DAY_MS + key))
    found = counted.counts(np.arange(6), now_ms)
    for row in range(6):
        ages = [(now_ms - time_ms) / DAY_MS for of, time_ms in first.values() if of == row != 0]
        by_hand = [sum(2 ** (-age / half_life) for age in ages) for half_life in HALF_LIVES_DAYS]
        assert np.allclose(found[row], by_hand, rtol=1e-4, atol=1e-30)


def test_a_repeated_event_is_recognised_for_as_long_as_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(popular, "REMEMBERED_EVENTS", 10)
    counted = Popularity()
    counted.observe(np.ones(20, np.int64), [NOW_MS] * 20, list(range(20)))
    counted.observe(np.ones(2, np.int64), [NOW_MS] * 2, [19, 0])

    assert counted.counts(np.array([1]), NOW_MS)[0].tolist() == [21, 21, 21] and len(counted._keys) == 10


def test_popularity_before_any_event_and_of_rows_beyond_its_room_is_nothing() -> None:
    counted = Popularity()
    assert (counted.counts(np.array([1, ITEMS * 100]), NOW_MS) == 0).all()
    counted.observe(np.array([5000]), [NOW_MS])
    assert counted.counts(np.array([5000, 99_999]), NOW_MS)[:, 0].tolist() == [1, 0]
