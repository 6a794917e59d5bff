"""Diffusion: masking, loss and sampler, with items and with semantic IDs as tokens."""

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
TRIE = SemanticIdTrie.from_codes(CODES, SIZES)


def build_bare_canvas(tokens: Tensor) -> Canvas:
    """A canvas of tokens (B, L, D) with everything else zero."""
    zeros = torch.zeros(tokens.shape[:2], dtype=torch.long)
    return Canvas(tokens, zeros, zeros, zeros, torch.zeros(len(tokens), dtype=torch.long))


class FixedDenoiser:
    """A fake network: its hidden states are its logits."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def hidden(self, canvas: Canvas, token_table: TokenTable) -> Tensor:
        return self._logits

    def logits(self, hidden: Tensor, token_table: TokenTable, digit: int, prior: Tensor | None) -> Tensor:
        return hidden


def build_model(codes: tuple[int, ...] = ()) -> tuple[BehaviorModel, TokenTable]:
    torch.manual_seed(0)
    backbone = BackboneConfig(width=32, heads=4, kv_heads=2, feed=48)
    config = BehaviorConfig(vector_dim=DIM, claims=VOCABULARY.size, items=1, codes=codes, history=12, backbone=backbone)
    model = BehaviorModel(config).eval()
    for table in model.tokens.parameters():
        table.data *= 3  # otherwise all items are about equally likely
    return model, model.token_table(TABLE, torch.zeros(len(TABLE), dtype=torch.long), TRIE if codes else None)


def sample(
    model: BehaviorModel,
    token_table: TokenTable,
    seeds: list[int],
    sampling: Sampling,
    slots: Slots | None = None,
    **more: Tensor,
) -> Draw:
    requests = [request(seed) for seed in seeds]
    history = build_sequences([one.history for one in requests], [NOW_MS] * len(requests), TABLE, 12)
    with torch.inference_mode():
        canvas = build_canvas(history, torch.tensor([NOW_MS] * len(requests)), token_table, None)
        after = torch.full((len(requests), 1), 12)
        slots = slots or Slots(after, torch.zeros_like(after), torch.full_like(after, sampling.behaviors))
        allowed = more.pop("allowed", TABLE.live.expand(len(requests), -1))
        return diffusion.denoise(model, canvas, token_table, allowed, slots, sampling, **more)


def test_a_single_maskable_token_is_always_masked_and_others_at_every_rate() -> None:
    torch.manual_seed(1)
    tokens, maskable = torch.ones(4000, 3, 1, dtype=torch.long), torch.ones(4000, 3, dtype=torch.bool)
    maskable[:2000, :2] = False  # only the last behavior of these rows
    tokens[1000:2000, 2] = ABSENT  # these have none

    t = diffusion.draw_rates(tokens, maskable)

    masked = diffusion.mask(tokens, t, maskable) == MASK
    assert masked[:1000, 2].all()
    assert not masked[1000:2000].any()
    assert masked[:2000].sum() == 1000
    assert t[2000:].min() < 0.16 and 0.55 < t[2000:].mean() < 0.6


@pytest.mark.parametrize("digits", [1, 3])
def test_mask_rate_is_t(digits: int) -> None:
    torch.manual_seed(1)
    tokens, maskable = torch.ones(4000, 50, digits, dtype=torch.long), torch.ones(4000, 50, dtype=torch.bool)
    t = diffusion.draw_rates(tokens, maskable)

    masked = diffusion.mask(tokens, t, maskable)

    rate = (masked == MASK).float().mean((1, 2)).unsqueeze(-1)
    assert diffusion.MIN_MASK_RATE <= float(t.min()) and float(t.max()) <= 1
    assert abs(float((rate - t).mean())) < 0.01
    assert float(torch.corrcoef(torch.cat([rate, t], 1).T)[0, 1]) > 0.9


def test_mask_hides_whole_behaviors_in_half_of_the_rows() -> None:
    torch.manual_seed(1)
    masked = diffusion.mask(torch.ones(2000, 40, 3, dtype=torch.long), torch.full((2000, 1), 0.5), torch.ones(2000, 40).bool())

    whole = ((masked == MASK).all(-1) | (masked != MASK).all(-1)).all(-1)

    assert 0.45 < float(whole.float().mean()) < 0.55


def test_mask_spares_absent_tokens_and_the_prompt() -> None:
    tokens = torch.tensor([[[5], [6], [ABSENT]]]).repeat(200, 1, 1)
    maskable = torch.tensor([False, True, True]).expand(200, 3)

    masked = diffusion.mask(tokens, torch.full((200, 1), 0.9), maskable)

    assert (masked[:, 0] == 5).all() and (masked[:, 2] == ABSENT).all() and (masked[:, 1] == MASK).any()


def test_loss_weights_masked_tokens_by_one_over_t_and_rows_equally() -> None:
    logits = torch.randn(2, 2, 5)
    tokens = torch.tensor([[[1], [2]], [[3], [ABSENT]]])
    masked = torch.tensor([[[MASK], [2]], [[MASK], [ABSENT]]])
    t = torch.tensor([[0.5], [0.25]])

    log_p = torch.log_softmax(logits, -1)
    expected = (-log_p[0, 0, 1] / (0.5 * 2) - log_p[1, 0, 3] / (0.25 * 1)) / 2  # two tokens in the first row, one in the second

    items = build_item_token_table(torch.empty(5, 1), torch.empty(5))
    loss = diffusion.loss(FixedDenoiser(logits), build_bare_canvas(tokens), masked, t, torch.ones(2, 2).bool(), items)
    assert torch.allclose(loss, expected)


def test_expected_loss_does_not_depend_on_t() -> None:
    """The weight 1/t makes up for scoring only a share t of the tokens."""
    torch.manual_seed(0)
    tokens, maskable = torch.randint(5, (20_000, 4, 1)), torch.ones(20_000, 4).bool()
    network, items = FixedDenoiser(torch.zeros(20_000, 4, 5)), build_item_token_table(torch.empty(5, 1), torch.empty(5))
    for rate in (0.2, 0.9):
        t = torch.full((20_000, 1), rate)
        masked = diffusion.mask(tokens, t, maskable)
        loss = diffusion.loss(network, build_bare_canvas(tokens), masked, t, maskable, items)
        assert abs(float(loss) - float(torch.log(torch.tensor(5.0)))) < 0.03


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 4),
    st.sets(st.integers(1, ITEMS), max_size=30),
)
@settings(max_examples=25)
def test_denoise_infers_allowed_items_at_most_once(
    seeds: list[int], behaviors: int, steps: int, allowed_rows: set[int]
) -> None:
    allowed = torch.zeros(len(seeds), len(TABLE), dtype=torch.bool)
    allowed[:, list(allowed_rows)] = True
    for codes in ((), SIZES):
        model, token_table = build_model(codes)

        draw = sample(model, token_table, seeds, Sampling(behaviors, steps), allowed=allowed)

        for rows, confidences in zip(draw.rows.tolist(), draw.confidences.tolist(), strict=True):
            inferred = [row for row in rows if row != ABSENT]
            assert len(set(inferred)) == len(inferred) and set(inferred) <= allowed_rows
            assert all((row != ABSENT) == (p > 0) for row, p in zip(rows, confidences, strict=True))
            if not codes:
                assert len(inferred) == min(behaviors, len(allowed_rows))


def test_items_share_the_probability_of_their_semantic_id() -> None:
    """With a beam as wide as the catalog, one step's probabilities sum to one, and items with equal IDs have equal shares."""
    model, token_table = build_model(SIZES)
    assert token_table.trie

    draw = sample(model, token_table, [4], Sampling(ITEMS, 1))

    assert float(draw.confidences.sum()) == pytest.approx(1.0, abs=1e-4) and int((draw.rows[0] != ABSENT).sum()) == ITEMS
    share = dict(zip(draw.rows[0].tolist(), draw.confidences[0].tolist(), strict=True))
    for leaf in torch.unique(token_table.trie.leaf)[:40]:
        group = [share[row] for row in (token_table.trie.leaf == leaf).nonzero().flatten().tolist() if row]
        assert not group or max(group) == pytest.approx(min(group), rel=1e-4)


@pytest.mark.parametrize("codes", [(), SIZES])
def test_denoise_is_deterministic_for_given_noise(codes: tuple[int, ...]) -> None:
    model, token_table = build_model(codes)
    noise = -torch.empty(2, 1, len(TABLE)).exponential_(generator=torch.Generator().manual_seed(5)).log()
    sampling = Sampling(8, 2, temperature=1.0)

    one, same = (sample(model, token_table, [4, 5], sampling, noise=noise) for _ in range(2))
    other = sample(model, token_table, [4, 5], sampling, noise=-noise)

    assert torch.equal(one.rows, same.rows) and torch.equal(one.confidences, same.confidences)
    assert not torch.equal(one.rows, other.rows)


def test_unmasked_behaviors_change_the_next_steps() -> None:
    model, token_table = build_model()

    at_once, one_by_one = (sample(model, token_table, [9], Sampling(8, steps)) for steps in (1, 8))

    assert at_once.rows[0, 0] == one_by_one.rows[0, 0]
    assert not torch.equal(at_once.confidences, one_by_one.confidences)
    assert torch.equal(at_once.latent, one_by_one.latent)


def test_denoise_stops_early_once_probabilities_settle() -> None:
    model, token_table = build_model()

    patient, eager = (sample(model, token_table, [3, 9], Sampling(8, 8, tolerance=tolerance)) for tolerance in (0.0, 1.0))

    assert patient.steps.tolist() == [8, 8]
    assert eager.steps.tolist() == [2, 2]  # with a tolerance of 1 any movement is small enough
    assert (eager.rows != ABSENT).all()


def test_slots_are_filled_up_to_their_capacity() -> None:
    model, token_table = build_model()
    positions, gaps = torch.tensor([[12, 4, 7]]), torch.tensor([[0, 5, 3]])

    draw = sample(model, token_table, [19], Sampling(6, 2), Slots(positions, gaps, torch.tensor([[4, 1, 1]])))

    assert torch.bincount(draw.slots[0]).tolist() == [4, 1, 1]
    alone = sample(model, token_table, [19], Sampling(1, 1), Slots(positions[:, 1:2], gaps[:, 1:2], torch.tensor([[1]])))
    to_come = sample(model, token_table, [19], Sampling(1, 1))
    assert alone.confidences[0, 0] != to_come.confidences[0, 0]  # another time gives other probabilities


def test_masked_behaviors_do_not_reveal_their_type() -> None:
    canvas = replace(build_bare_canvas(torch.tensor([[[3], [4]]])), types=torch.tensor([[4, 4]]))

    assert canvas.with_tokens(torch.tensor([[[3], [MASK]]])).types.tolist() == [[4, 0]]
