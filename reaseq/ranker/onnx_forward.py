"""The ranker's forward pass as an ONNX model, which a CPU runs faster than the eager one (docs/adr/0014).

It is traced from the eager model when a ranker is published. What `Ranker.embed` computes of the item table is an input, like
the table itself: the tensors are handed over where they are, so no request copies the table.
"""

import io
import warnings

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reaseq.behavior.sequence import Sequences
from reaseq.knowledge.vocabulary import CLAIMS_LIMIT
from reaseq.ranker.model import Embedded, Ranker, RankerBatch, RankerConfig
from reaseq.representation.attributes import Attributes, code_fields
from reaseq.representation.contents import Contents

FILE = "forward.onnx"
OPSET = 18
# Any sizes do: the sizes of these dimensions are free in the exported model.
EXAMPLE_USERS, EXAMPLE_CANDIDATES, EXAMPLE_ROWS, EXAMPLE_SLOTS = 2, 3, 4, 5


def export(model: Ranker) -> bytes:
    """The ONNX model that maps a batch and the embedded item table to the candidates' probabilities (B, C).

    Users, candidates, rows and slots may be of any number; a history always has `config.history` positions.
    """
    inputs = _inputs(*_example(model.config, model.calibration.device))
    free = {name: {0: f"{name}_0"} for name in inputs} | {name: {0: "users", 1: name} for name in ("candidates", "numbers")}
    file = io.BytesIO()
    with warnings.catch_warnings():  # the exporter that replaces this one takes ten times as long
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning, r"torch\.onnx")
        torch.onnx.export(
            _Traced(model).eval(),
            tuple(inputs.values()),
            file,  # type: ignore[arg-type]  # this exporter takes open files too
            dynamo=False,
            input_names=list(inputs),
            dynamic_axes=free,
            opset_version=OPSET,
        )
    return file.getvalue()


class OnnxForward:
    """Runs an exported model on as many threads as torch uses now. Safe to use from several threads."""

    def __init__(self, exported: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave the core to others
        self._session = onnxruntime.InferenceSession(exported, options, ["CPUExecutionProvider"])
        self._inputs = {declared.name for declared in self._session.get_inputs()}  # only those that the model reads

    def probability(self, batch: RankerBatch, items: Embedded) -> NDArray[np.float32]:
        """Probabilities (B, C) of a batch."""
        feed = {name: tensor.numpy() for name, tensor in _inputs(batch, items).items() if name in self._inputs}
        probabilities: NDArray[np.float32] = self._session.run(None, feed)[0]
        return probabilities


class _Traced(nn.Module):
    """The model as a function of tensors alone, in the order of `_inputs`."""

    def __init__(self, model: Ranker) -> None:
        super().__init__()
        self._model = model

    def forward(self, *tensors: Tensor) -> Tensor:
        history, (inferred, confidences, candidates, numbers, now_ms) = Sequences(*tensors[:3]), tensors[3:8]
        slots, vectors, claims, claim_confidences, ids, content_embeddings, codes = tensors[8:]
        batch = RankerBatch(history, inferred, confidences, candidates, numbers, now_ms)
        contents = Contents(vectors, claims, claim_confidences, Attributes((), vectors[:, :0], codes))
        return self._model.probability(self._model(batch, Embedded(slots, contents, ids, content_embeddings, codes)))


def _inputs(batch: RankerBatch, items: Embedded) -> dict[str, Tensor]:
    """The tensors that a forward pass may read, by the names of the ONNX model's inputs."""
    return {
        "history_rows": batch.history.rows,
        "history_types": batch.history.types,
        "history_gaps": batch.history.gaps,
        "inferred": batch.inferred,
        "confidences": batch.confidences,
        "candidates": batch.candidates,
        "numbers": batch.numbers,
        "now_ms": batch.now_ms,
        "slots": items.slots,
        "vectors": items.contents.vectors,
        "claims": items.contents.claims,
        "claim_confidences": items.contents.confidences,
        "ids": items.ids,
        "content_embeddings": items.content_embeddings,
        "codes": items.codes,
    }


def _example(config: RankerConfig, device: torch.device) -> tuple[RankerBatch, Embedded]:
    """A batch and an item table of zeros."""

    def integers(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.long, device=device)

    def floats(*shape: int) -> Tensor:
        return torch.zeros(shape, device=device)

    users, candidates, slots = EXAMPLE_USERS, EXAMPLE_CANDIDATES, EXAMPLE_SLOTS
    codes = integers(slots, sum(field.slots for field in code_fields(config.attributes)))
    batch = RankerBatch(
        history=Sequences(*(integers(users, config.history) for _ in range(3))),
        inferred=integers(users, config.inferred),
        confidences=floats(users, config.inferred),
        candidates=integers(users, candidates),
        numbers=floats(users, candidates, config.numbers),
        now_ms=integers(users),
    )
    contents = Contents(
        floats(slots, config.vector_dim),
        integers(slots, CLAIMS_LIMIT),
        floats(slots, CLAIMS_LIMIT),
        Attributes(config.attributes, floats(slots, 0), codes),
    )
    embeddings = floats(slots, config.width)
    return batch, Embedded(integers(EXAMPLE_ROWS), contents, embeddings, embeddings.clone(), codes)
