"""Trained models as artifacts: weights (safetensors), sizes, and the ids of the items they were trained on.

Separate from `reaseq.artifacts` because importing torch takes seconds, which commands without a model should not spend.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from safetensors.torch import load_file, save
from torch import nn

from reaseq.artifacts import Artifact, publish
from reaseq.errors import ArtifactError
from reaseq.representation.trained_ids import TrainedIds

C = TypeVar("C")
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


def load_sizes(artifact: Artifact, config_type: type[C]) -> C:
    """The sizes that the model was built with, as its dataclass.

    Raises ArtifactError if they have a field that this version of the code does not know, and would ignore.
    """
    with artifact.reading():
        sizes = json.loads((artifact.path / SIZES).read_text())
        config = msgspec.convert(sizes, config_type)
        unknown = list(_unknown_fields(sizes, msgspec.to_builtins(config)))
    if unknown:
        raise ArtifactError(f"{artifact.path / SIZES} has fields that this version of the code does not know: {unknown}")
    return config


def load_weights(artifact: Artifact, model: M) -> M:
    """Load the weights into a model of the artifact's sizes and put it in eval mode.

    Raises ArtifactError if their names, shapes or types differ from the model's, as when another version of this code wrote
    them, or if a weight is not finite.
    """
    with artifact.reading():
        weights, expected = load_file(artifact.path / WEIGHTS), model.state_dict()
    differing = sorted(weights.keys() ^ expected.keys()) or [
        name
        for name, tensor in sorted(weights.items())
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype)
    ]
    if differing:
        raise ArtifactError(
            f"{artifact.path} does not fit this version of the code: the model and the file differ in "
            f"{len(differing)} weights, {differing[0]} among them; train it again"
        )
    if invalid := [name for name, tensor in sorted(weights.items()) if not tensor.isfinite().all()]:
        raise ArtifactError(f"{artifact.path / WEIGHTS} has values that are not finite in {invalid[0]}; train it again")
    model.load_state_dict(weights)
    return model.eval()


def load_trained_ids(artifact: Artifact, count: int) -> TrainedIds:
    """The ids of the items that the model was trained on. Raises ArtifactError unless it has `count` id embeddings for them."""
    with artifact.reading():
        ids = TrainedIds(msgspec.json.decode((artifact.path / ITEMS).read_bytes(), type=list[str]))
    if len(ids) != count:
        raise ArtifactError(f"{artifact.path / ITEMS} has {len(ids)} ids, but the model has {count}")
    return ids


def _unknown_fields(sizes: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sizes.items():
        if name not in known:
            yield name
        elif isinstance(value, dict):
            yield from _unknown_fields(value, known[name])
