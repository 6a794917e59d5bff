"""A trained model as a published artifact: weights (safetensors), sizes, and the items it was trained on."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save
from torch import nn

from reaseq.artifacts import Artifact, publish
from reaseq.representation.trained_ids import TrainedIds

M = TypeVar("M", bound=nn.Module)

WEIGHTS, SIZES, ITEMS = "model.safetensors", "config.json", "items.json"


def publish_model(
    models: Path, kind: str, label: str, model: nn.Module, config: Any, ids: TrainedIds, facts: Mapping[str, Any]
) -> Artifact:
    """Publish `model`, whose sizes are the dataclass `config`, and point to it."""
    files = {
        WEIGHTS: save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}),
        SIZES: json.dumps(asdict(config)).encode(),
        ITEMS: json.dumps(ids.item_ids).encode(),
    }
    return publish(models, kind, label, files, facts)


def load_sizes(artifact: Artifact) -> dict[str, Any]:
    """The sizes that the model was built with."""
    sizes: dict[str, Any] = json.loads((artifact.path / SIZES).read_text())
    return sizes


def load_weights(artifact: Artifact, model: M) -> M:
    """Fill a model of those sizes; it comes back ready for inference."""
    model.load_state_dict(load_file(artifact.path / WEIGHTS))
    return model.eval()


def load_trained_ids(artifact: Artifact) -> TrainedIds:
    """The items that training knew."""
    return TrainedIds(json.loads((artifact.path / ITEMS).read_text()))
