"""The diffusion core: what masking, loss and sampler promise, with both ways of writing behaviors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reaseq.behavior import diffusion
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.diffusion import Canvas, Draw, Sampling, Slots
from reaseq.behavior.examples import build_canvas
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.behavior.sequence import build_sequences
from reaseq.behavior.token_table import ABSENT, MASK, SemanticIdTrie, TokenTable, build_item_token_table
from tests.fakes.catalog import CATALOG, DIM, ITEMS, NOW_MS, VOCABULARY, request

SIZES = (6, 6, 6)
TABLE = CATALOG.snapshot
CODES = torch.randint(6, (len(TABLE), 3), generator=torch.Generator().manual_seed(3))
TREE = SemanticIdTrie.from_codes(CODES, SIZES)


def canvas(tokens: Tensor) -> Canvas:
    """Bare places: tokens (B, L, D)."""
    nothing = torch.zeros(tokens.shape[:2], dtype=torch.long)
    return Canvas(tokens, nothing, nothing, nothing, torch.zeros(len(tokens), dtype=torch.long))


class Fixed:
    """A stand-in for the network: its hidden states are its logits."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        return self._logits

    def logits(self, hidden: Tensor, token_table: TokenTable, digit: int, prior: Tensor | None) -> Tensor:
        return hidden


def to_model(codes: tuple[int, ...] = ()) -> tuple[BehaviorModel, TokenTable]:
    torch.manual_seed(0)
    backbone = BackboneConfig(width=32, heads=4, kv_heads=2, feed=48)
    config = BehaviorConfig(vector_dim=DIM, claims=VOCABULARY.size, items=1, codes=codes, history=12, backbone=backbone)
    model = BehaviorModel(config).eval()
    for table in model.tokens.parameters():
        table.data *= 3  # else an untrained model finds everything about equally likely
    return model, model.token_table(TABLE, torch.zeros(len(TABLE), dtype=torch.long), TREE if codes else None)


def sample(
    model: BehaviorModel,
    token_table: TokenTable,
    seeds: list[int],
    sampling: Sampling,
    slots: Slots | None = None,
    **more: Tensor,
) -> Draw:
    asked = [request(seed) for seed in seeds]
    history = build_sequences([q.history for q in asked], [NOW_MS] * len(asked), TABLE, 12)
    with torch.inference_mode():
        read = build_canvas(history, torch.tensor([NOW_MS] * len(asked)), token_table, None)
        after = torch.full((len(asked), 1), 12)
        slots = slots or Slots(after, torch.zeros_like(after), torch.full_like(after, sampling.behaviors))
        allowed = more.pop("allowed", TABLE.live.expand(len(asked), -1))
        return diffusion.denoise(model, read, token_table, allowed, slots, sampling, **more)


@pytest.mark.parametrize("digits", [1, 3])
def test_the_mask_rate_follows_t(digits: int) -> None:
    torch.manual_seed(1)
    tokens, t = torch.ones(4000, 50, digits, dtype=torch.long), diffusion.draw_rates(4000)

    masked = diffusion.mask(tokens, t, torch.ones(4000, 50, dtype=torch.bool))

    rate = (masked == MASK).float().mean((1, 2)).unsqueeze(-1)
    assert diffusion.MIN_MASK_RATE <= float(t.min()) and float(t.max()) <= 1
    assert abs(float((rate - t).mean())) < 0.01
    assert float(torch.corrcoef(torch.cat([rate, t], 1).T)[0, 1]) > 0.9


def test_half_of_the_rows_mask_whole_behaviors_and_half_single_digits() -> None:
    torch.manual_seed(1)
    masked = diffusion.mask(torch.ones(2000, 40, 3, dtype=torch.long), torch.full((2000, 1), 0.5), torch.ones(2000, 40).bool())

    whole = ((masked == MASK).all(-1) | (masked != MASK).all(-1)).all(-1)

    assert 0.45 < float(whole.float().mean()) < 0.55


def test_neither_what_is_absent_nor_the_prompt_is_ever_masked() -> None:
    tokens = torch.tensor([[[5], [6], [ABSENT]]]).repeat(200, 1, 1)
    maskable = torch.tensor([False, True, True]).expand(200, 3)

    masked = diffusion.mask(tokens, torch.full((200, 1), 0.9), maskable)

    assert (masked[:, 0] == 5).all() and (masked[:, 2] == ABSENT).all() and (masked[:, 1] == MASK).any()


def test_the_loss_weighs_masked_tokens_by_one_over_t_and_every_row_the_same() -> None:
    logits = torch.randn(2, 2, 5)
    tokens = torch.tensor([[[1], [2]], [[3], [ABSENT]]])
    masked = torch.tensor([[[MASK], [2]], [[MASK], [ABSENT]]])
    t = torch.tensor([[0.5], [0.25]])

    log_p = torch.log_softmax(logits, -1)
    by_hand = (-log_p[0, 0, 1] / (0.5 * 2) - log_p[1, 0, 3] / (0.25 * 1)) / 2  # two tokens in the first row, one in the second

    items = build_item_token_table(torch.empty(5, 1), torch.empty(5))
    found = diffusion.loss(Fixed(logits), canvas(tokens), masked, t, torch.ones(2, 2).bool(), items)
    assert torch.allclose(found, by_hand)


def test_the_expected_loss_does_not_hang_on_t() -> None:
    """1/t undoes that at a rate t only a share t of the tokens is scored."""
    torch.manual_seed(0)
    tokens, maskable = torch.randint(5, (20_000, 4, 1)), torch.ones(20_000, 4).bool()
    network, items = Fixed(torch.zeros(20_000, 4, 5)), build_item_token_table(torch.empty(5, 1), torch.empty(5))
    for rate in (0.2, 0.9):
        t = torch.full((20_000, 1), rate)
        found = diffusion.loss(network, canvas(tokens), diffusion.mask(tokens, t, maskable), t, maskable, items)
        assert abs(float(found) - float(torch.log(torch.tensor(5.0)))) < 0.03


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 4),
    st.sets(st.integers(1, ITEMS), max_size=30),
)
@settings(max_examples=25, deadline=None)
def test_the_sampler_emits_available_items_each_once_and_no_semantic_id_that_does_not_exist(
    seeds: list[int], behaviors: int, steps: int, open_rows: set[int]
) -> None:
    allowed = torch.zeros(len(seeds), len(TABLE), dtype=torch.bool)
    allowed[:, list(open_rows)] = True
    for codes in ((), SIZES):
        model, token_table = to_model(codes)

        draw = sample(model, token_table, seeds, Sampling(behaviors, steps), allowed=allowed)

        for rows, sure in zip(draw.rows.tolist(), draw.confidences.tolist(), strict=True):
            given_ = [row for row in rows if row != ABSENT]
            assert len(set(given_)) == len(given_) and set(given_) <= open_rows
            assert all((row != ABSENT) == (p > 0) for row, p in zip(rows, sure, strict=True))
            if not codes:
                assert len(given_) == min(behaviors, len(open_rows))


def test_with_digits_a_probability_is_the_product_of_its_digits_shared_among_equals() -> None:
    """A wide beam of one round sums to one over all items, and equal IDs have equal shares."""
    model, token_table = to_model(SIZES)

    draw = sample(model, token_table, [4], Sampling(ITEMS, 1))

    kept = draw.rows[0] != ABSENT
    assert float(draw.confidences.sum()) == pytest.approx(1.0, abs=1e-4) and int(kept.sum()) == ITEMS
    share = dict(zip(draw.rows[0].tolist(), draw.confidences[0].tolist(), strict=True))
    for leaf in torch.unique(token_table.leaf)[:40]:
        group = [share[row] for row in (token_table.leaf == leaf).nonzero().flatten().tolist() if row]
        assert not group or max(group) == pytest.approx(min(group), rel=1e-4)


@pytest.mark.parametrize("codes", [(), SIZES])
def test_a_fixed_seed_gives_the_same_output(codes: tuple[int, ...]) -> None:
    model, token_table = to_model(codes)
    noise = -torch.empty(2, 1, len(TABLE)).exponential_(generator=torch.Generator().manual_seed(5)).log()
    sampling = Sampling(8, 2, temperature=1.0)

    one, same = (sample(model, token_table, [4, 5], sampling, noise=noise) for _ in range(2))
    other = sample(model, token_table, [4, 5], sampling, noise=-noise)

    assert torch.equal(one.rows, same.rows) and torch.equal(one.confidences, same.confidences)
    assert not torch.equal(one.rows, other.rows)


def test_what_was_unmasked_changes_what_comes_next() -> None:
    model, token_table = to_model()

    at_once, one_by_one = (sample(model, token_table, [9], Sampling(8, steps)) for steps in (1, 8))

    assert at_once.rows[0, 0] == one_by_one.rows[0, 0]
    assert not torch.equal(at_once.confidences, one_by_one.confidences)
    assert torch.equal(at_once.latent, one_by_one.latent)


def test_a_user_for_whom_nothing_moves_is_done_early() -> None:
    model, token_table = to_model()

    patient, eager = (sample(model, token_table, [3, 9], Sampling(8, 8, tolerance=much)) for much in (0.0, 1.0))

    assert patient.rounds.tolist() == [8, 8]
    assert eager.rounds.tolist() == [2, 2]  # the second round moved less than everything
    assert (eager.rows != ABSENT).all()


def test_infilled_behaviors_stand_at_their_moment_each_slot_taking_what_it_has_room_for() -> None:
    model, token_table = to_model()
    positions, gaps = torch.tensor([[12, 4, 7]]), torch.tensor([[0, 5, 3]])

    draw = sample(model, token_table, [19], Sampling(6, 2), Slots(positions, gaps, torch.tensor([[4, 1, 1]])))

    assert torch.bincount(draw.slots[0]).tolist() == [4, 1, 1]
    alone = sample(model, token_table, [19], Sampling(1, 1), Slots(positions[:, 1:2], gaps[:, 1:2], torch.tensor([[1]])))
    to_come = sample(model, token_table, [19], Sampling(1, 1))
    assert alone.confidences[0, 0] != to_come.confidences[0, 0]  # a moment in the past is another request


def test_a_canvas_tells_no_type_of_what_it_masks() -> None:
    read = replace(canvas(torch.tensor([[[3], [4]]])), types=torch.tensor([[4, 4]]))

    assert read.with_tokens(torch.tensor([[[3], [MASK]]])).types.tolist() == [[4, 0]]
