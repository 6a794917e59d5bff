"""Semantic IDs, the alignment head and the encoder, and the rejection of vectors of another space."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reaseq.artifacts import current
from reaseq.behavior.token_table import SemanticIdTrie
from reaseq.errors import ArtifactError, ReaSeqError, SpaceMismatch
from reaseq.representation.alignment import KIND as ALIGNMENT
from reaseq.representation.alignment import AlignmentHead, AlignmentTrainingConfig, load_head, train_head
from reaseq.representation.encoder import Encoder
from reaseq.representation.semantic_ids import KIND, Codebook, Drift, drift, examine, fit, load_fitted, semantic_id
from reaseq.settings import EncoderSettings


def clusters(count: int, seed: int = 0, spread: float = 0.05) -> NDArray[np.float32]:
    """Unit vectors around sixteen centers."""
    centers = np.random.default_rng(7).normal(size=(16, 32))
    generator = np.random.default_rng(seed)
    vectors = centers[generator.integers(0, 16, count)] + spread * generator.normal(size=(count, 32))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return unit


VECTORS = clusters(600)
BOOK = fit(VECTORS, "s", levels=3, codes=16)
FITTED = examine(BOOK, VECTORS, np.ones(600, np.int64))


def test_more_digits_reduce_the_error() -> None:
    errors = [
        float(
            ((VECTORS - Codebook(BOOK.centroids[:levels], "s").decode(BOOK.encode(VECTORS, "s")[:, :levels])) ** 2)
            .sum(-1)
            .mean()
        )
        for levels in (1, 2, 3)
    ]

    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 0.2  # the first digit finds most of the sixteen centers


def test_semantic_id_depends_only_on_vector_item_and_codebook() -> None:
    digits = BOOK.encode(VECTORS[5:6], "s")[0]

    assert (BOOK.encode(VECTORS, "s")[5] == digits).all()
    assert semantic_id("a", digits) == semantic_id("a", digits) != semantic_id("b", digits)
    assert semantic_id("a", digits)[:3] == tuple(digits)


def test_new_items_are_encoded_with_the_existing_codebook() -> None:
    digits = BOOK.encode(clusters(50, seed=1), "s")

    assert digits.shape == (50, 3) and digits.min() >= 0 and digits.max() < 16


def test_codebook_rejects_vectors_of_another_space() -> None:
    with pytest.raises(SpaceMismatch, match="'other'"):
        BOOK.encode(VECTORS, "other")


def test_quality_counts_items_ids_and_collisions() -> None:
    doubled = np.concatenate([VECTORS[:10], VECTORS[:5]])

    quality = BOOK.quality(doubled, "s")

    digits = {tuple(row) for row in BOOK.encode(VECTORS[:10], "s").tolist()}
    assert (quality.items, quality.ids) == (15, len(digits))
    assert quality.collision_free_share <= 5 / 15 and quality.largest_group >= 2
    use = BOOK.quality(VECTORS, "s").levels[0]
    assert use.dead_codes == 0 and 12 < use.perplexity <= 16 and 0 <= use.gini < 0.4


def test_quality_reports_dead_codes_and_uneven_use() -> None:
    use = BOOK.quality(np.repeat(VECTORS[:1], 20, axis=0), "s").levels[0]

    assert use.dead_codes == 15 and use.perplexity == pytest.approx(1.0) and use.gini == pytest.approx(15 / 16)


def test_refit_is_due_when_new_items_differ() -> None:
    different = np.random.default_rng(3).normal(size=(200, 32)).astype(np.float32)
    different /= np.linalg.norm(different, axis=-1, keepdims=True)

    def drift_after(new: NDArray[np.float32]) -> Drift:
        times = np.array([1] * 600 + [2] * len(new))
        return drift(FITTED, BOOK, np.concatenate([VECTORS, new]), times, "s")

    assert not drift_after(VECTORS[:0]).refit_due
    similar = drift_after(clusters(200, seed=2))
    assert similar.new_items == 200 and not similar.refit_due and similar.error_ratio == pytest.approx(1.0, abs=0.15)
    drifted = drift_after(different)
    assert drifted.refit_due and drifted.error_ratio > 2


def test_published_codebook_is_loaded_unless_it_was_changed(tmp_path: Path) -> None:
    artifact = BOOK.publish(tmp_path, "3x16", FITTED)

    loaded = Codebook.load(current(tmp_path, KIND))
    assert np.array_equal(loaded.centroids, BOOK.centroids) and loaded.space_id == "s"
    assert load_fitted(current(tmp_path, KIND)) == FITTED

    (artifact.path / "centroids.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="changed or truncated"):
        current(tmp_path, KIND)


def test_trie_contains_exactly_the_existing_ids() -> None:
    codes = torch.tensor([[0, 0], [0, 1], [2, 1], [2, 1]])

    trie = SemanticIdTrie.from_codes(codes, (3, 2))

    assert trie.children[0].tolist() == [[0, -1, 1]]
    assert trie.children[1].tolist() == [[0, 1], [-1, 2]]
    assert trie.paths[-1].tolist() == [0, 1, 2, 2]
    assert trie.prefixes[0].tolist() == [[0, -1], [2, -1]]
    assert trie.leaves == 3


def test_alignment_moves_paired_items_closer() -> None:
    vectors = torch.from_numpy(VECTORS)
    partner = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    rotated = vectors.roll(1, dims=1)[partner]  # each item's partner is its own vector, rotated
    both = torch.cat([vectors, rotated])
    pairs = torch.stack([partner, torch.arange(600, 1200)], dim=1)

    head = train_head(both, pairs, AlignmentTrainingConfig(steps=150, batch_pairs=128))

    def cosine(vectors: torch.Tensor) -> float:
        return float((vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(-1).mean())

    assert cosine(head(both)) > cosine(both) + 0.2
    assert torch.allclose(head(both).norm(dim=-1), torch.ones(1200), atol=1e-5)


def test_untrained_head_is_the_identity() -> None:
    assert torch.allclose(AlignmentHead(32)(torch.from_numpy(VECTORS)), torch.from_numpy(VECTORS), atol=1e-6)


def test_head_has_its_own_space_and_requires_the_one_it_was_trained_on(tmp_path: Path) -> None:
    space_id = Encoder(EncoderSettings()).space_id
    head = AlignmentHead(384)
    torch.nn.init.normal_(head.linear.weight, std=0.1)
    artifact = head.publish(tmp_path, "20110901", space_id, {"pairs": 1})

    plain, aligned = (Encoder(EncoderSettings(alignment=folder)) for folder in (None, artifact.path))

    assert aligned.space_id == f"{plain.space_id}+{artifact.version}"
    text = ["red mug"]
    assert np.allclose(aligned.encode(text), head(torch.from_numpy(plain.encode(text))).detach().numpy(), atol=1e-6)
    assert current(tmp_path, ALIGNMENT).version == artifact.version
    with pytest.raises(SpaceMismatch, match="'elsewhere'"):
        load_head(artifact.path, "elsewhere")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        load_head(tmp_path, space_id)


def test_encoder_from_a_hub_must_be_pinned() -> None:
    with pytest.raises(ReaSeqError, match="REASEQ_ENCODER__REVISION"):
        Encoder(EncoderSettings(model="somebody/some-encoder"))


def test_faiss_is_loaded_only_to_fit() -> None:
    """Serving processes do not need faiss, and should not wait for its import."""
    code = "import sys; import reaseq.representation.semantic_ids; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
