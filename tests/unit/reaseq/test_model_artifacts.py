"""Trained models as artifacts."""

from pathlib import Path

import pytest
import torch
from torch import nn

from reaseq.artifacts import load_version
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.inference import KIND, BehaviorInference
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.errors import ArtifactError
from reaseq.model_artifacts import publish_model
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings
from tests.fakes.catalog import CATALOG, DIM, VOCABULARY, request

SIZES = BehaviorConfig(vector_dim=DIM, claims=VOCABULARY.size, backbone=BackboneConfig(width=32, layers=1, feed=48))


def load(models: Path, model: nn.Module) -> BehaviorInference:
    artifact = publish_model(models, KIND, "v", model, SIZES, TrainedIds([]), {})
    return BehaviorInference.load(load_version(models, KIND, artifact.version), models, CATALOG, SamplerSettings())


def test_published_model_is_loaded_ready_for_inference(tmp_path: Path) -> None:
    (inferred,) = load(tmp_path, BehaviorModel(SIZES)).infer([request(3)])

    assert inferred and inferred.item_ids


def test_model_with_other_weight_names_is_rejected(tmp_path: Path) -> None:
    older = BehaviorModel(SIZES)
    older.renamed = older.types
    del older.types

    with pytest.raises(ArtifactError, match=r"does not fit this version of the code: .* differ in 2 weights, renamed\.weight"):
        load(tmp_path, older)


def test_model_with_other_weight_shapes_is_rejected(tmp_path: Path) -> None:
    older = BehaviorModel(SIZES)
    older.masks = nn.Parameter(torch.zeros(2, 32))

    with pytest.raises(ArtifactError, match="differ in 1 weights, masks among them"):
        load(tmp_path, older)
