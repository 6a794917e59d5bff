"""Trained models as artifacts: weights (safetensors), sizes, and the ids of the items they were trained on.

Separate from `reaseq.artifacts` because importing torch takes seconds, which commands without a model should not spend.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from safetensors.torch import load_file, save
from torch import nn

from reaseq.artifacts import Artifact, publish
from reaseq.errors import ArtifactError
from reaseq.representation.trained_ids import TrainedIds

M = TypeVar("M", bound=nn.Module)

WEIGHTS, SIZES, ITEMS = "model.safetensors", "config.json", "items.json"


def publish_model(
    models: Path,
    kind: str,
    label: str,
    model: nn.Module,
    config: Any,
    ids: TrainedIds,
    facts: Mapping[str, Any],
    further_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Artifact:
    """Publish `model`, whose sizes are the dataclass `config`, and make it current."""
    files = {
        **further_files,
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
    """Load the weights into a model of the artifact's sizes and put it in eval mode.

    Raises ArtifactError if their names or shapes differ from the model's, as when another version of this code wrote them.
    """
    weights, expected = load_file(artifact.path / WEIGHTS), model.state_dict()
    differing = sorted(weights.keys() ^ expected.keys()) or [
        name for name, tensor in sorted(weights.items()) if tensor.shape != expected[name].shape
    ]
    if differing:
        raise ArtifactError(
            f"{artifact.kind} {artifact.version} does not fit this version of the code: the model and the file differ in "
            f"{len(differing)} weights, {differing[0]} among them; train it again"
        )
    model.load_state_dict(weights)
    return model.eval()


def load_trained_ids(artifact: Artifact) -> TrainedIds:
    """The ids of the items that the model was trained on."""
    return TrainedIds(json.loads((artifact.path / ITEMS).read_text()))
