"""Text models behind one interface: a BERT read from its own files, and any other model through sentence-transformers.

Importing sentence-transformers takes longer than everything else that a process does at its start. The bundled MiniLM is a BERT
whose vectors are the means of its last layer, so on a CPU it needs only its tokenizer, its weights and ONNX Runtime.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from reaseq.errors import ReaSeqError


class TextModel(Protocol):
    """Turns texts into vectors."""

    @property
    def dim(self) -> int:
        """Values of a vector."""
        ...

    @property
    def threads(self) -> int:
        """How many calls of `embed` may run at once, and gain from it."""
        ...

    def tokenize(self, texts: Sequence[str], limit_tokens: int) -> list[list[int]]:
        """The token ids of each text, at most `limit_tokens`. Not safe to call from several threads."""
        ...

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (B, D) of texts of equal length, by their token ids (B, T)."""
        ...


class BertModel:
    """The mean of a BERT's last layer over the tokens of a text, on the CPU.

    A forward pass runs in one thread: several of them at once use the cores better than one that shares its work out.
    """

    def __init__(self, directory: Path) -> None:
        """Read `config.json`, `tokenizer.json` and `model.safetensors` of `directory`."""
        from reaseq.representation.bert import build_bert  # imports onnx, which a ranking service needs for a search alone

        config = json.loads((directory / "config.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model = build_bert(config, directory / "model.safetensors")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.dim: int = config["hidden_size"]

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def tokenize(self, texts: Sequence[str], limit_tokens: int) -> list[list[int]]:
        self._tokenizer.enable_truncation(limit_tokens)
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._session.run(None, {self._session.get_inputs()[0].name: ids})[0]
        return vectors


class SentenceTransformersModel:
    """A model by name or directory, with whatever modules it has."""

    threads = 1  # torch shares out the work of one forward pass

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

    def tokenize(self, texts: Sequence[str], limit_tokens: int) -> list[list[int]]:
        ids: list[list[int]] = self._model.tokenizer(list(texts), truncation=True, max_length=limit_tokens)["input_ids"]
        return ids

    @torch.inference_mode()
    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        tokens = torch.from_numpy(ids).to(self._model.device)
        inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        vectors: NDArray[np.float32] = self._model(inputs)["sentence_embedding"].float().cpu().numpy()
        return vectors
