"""Text models behind one interface: a BERT read from its own files, and any other model through sentence-transformers.

Importing sentence-transformers takes longer than everything else that a process does at its start. The bundled MiniLM is a BERT
whose vectors are the means of its last layer, so it needs only its tokenizer, its weights and torch.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from reaseq.errors import ReaSeqError

PADDING_ID = 0


class TextModel(Protocol):
    """Turns texts into vectors. Not safe to call from several threads: a tokenizer keeps the padding that was last set."""

    @property
    def dim(self) -> int:
        """Values of a vector."""
        ...

    def count_tokens(self, texts: Sequence[str], limit_tokens: int) -> list[int]:
        """Tokens of each text, at most `limit_tokens`."""
        ...

    def embed(self, texts: Sequence[str], tokens: int) -> Tensor:
        """Vectors (N, D) of texts that are padded or cut to `tokens`."""
        ...


class BertModel:
    """A BERT (https://arxiv.org/abs/1810.04805) without dropout, and the mean of its last layer over the tokens of a text."""

    def __init__(self, directory: Path) -> None:
        """Read `config.json`, `tokenizer.json` and `model.safetensors` of `directory`."""
        config = json.loads((directory / "config.json").read_text())
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config["layer_norm_eps"]
        self._weights = load_file(directory / "model.safetensors", device=str(self._device))
        self.dim: int = config["hidden_size"]

    def count_tokens(self, texts: Sequence[str], limit_tokens: int) -> list[int]:
        self._tokenizer.enable_truncation(limit_tokens)
        self._tokenizer.no_padding()
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, texts: Sequence[str], tokens: int) -> Tensor:
        self._tokenizer.enable_truncation(tokens)
        self._tokenizer.enable_padding(pad_id=PADDING_ID, length=tokens)
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = torch.tensor([encoding.ids for encoding in encodings], device=self._device)  # (B, T)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=self._device).bool()  # (B, T)
        hidden = self._embeddings(ids)  # (B, T, D)
        for layer in range(self._layers):
            hidden = self._layer(hidden, mask, f"encoder.layer.{layer}")
        weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)

    def _embeddings(self, ids: Tensor) -> Tensor:
        words = F.embedding(ids, self._weights["embeddings.word_embeddings.weight"])
        positions = self._weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        return self._norm(words + segment + positions, "embeddings")

    def _layer(self, hidden: Tensor, mask: Tensor, name: str) -> Tensor:
        """Attention and a feed-forward network, each with its residual connection."""
        query, key, value = (
            self._linear(hidden, f"{name}.attention.self.{part}").view(*hidden.shape[:2], self._heads, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )  # (B, H, T, D / H)
        attended = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        mixed = self._linear(attended.transpose(1, 2).flatten(2), f"{name}.attention.output.dense")
        hidden = self._norm(mixed + hidden, f"{name}.attention.output")
        wide = F.gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        return self._norm(self._linear(wide, f"{name}.output.dense") + hidden, f"{name}.output")

    def _linear(self, inputs: Tensor, name: str) -> Tensor:
        return F.linear(inputs, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, inputs: Tensor, name: str) -> Tensor:
        weight, bias = (self._weights[f"{name}.LayerNorm.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(inputs, weight.shape, weight, bias, self._epsilon)


class SentenceTransformersModel:
    """A model by name or directory, with whatever modules it has."""

    def __init__(self, model: str, revision: str) -> None:
        """Raises ReaSeqError if the model cannot be loaded."""
        is_directory = Path(model).is_dir()
        if is_directory:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._model = SentenceTransformer(model, revision=None if is_directory else revision).eval()
        except (OSError, ValueError) as error:
            raise ReaSeqError(f"REASEQ_ENCODER__MODEL: {model} cannot be loaded: {str(error).splitlines()[0]}") from error
        self.dim: int = int(self._model.get_embedding_dimension() or 0)

    def count_tokens(self, texts: Sequence[str], limit_tokens: int) -> list[int]:
        tokens = self._model.tokenizer(list(texts), truncation=True, max_length=limit_tokens)["input_ids"]
        return [len(ids) for ids in tokens]

    def embed(self, texts: Sequence[str], tokens: int) -> Tensor:
        padded = self._model.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=tokens, return_tensors="pt"
        )
        inputs = {name: tensor.to(self._model.device) for name, tensor in padded.items()}
        vectors: Tensor = self._model(inputs)["sentence_embedding"]
        return vectors
