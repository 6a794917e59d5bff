"""Trained models as artifacts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save
from torch import Tensor, nn

from reaseq.artifacts import load_version, publish
from reaseq.behavior.backbone import BackboneConfig
from reaseq.behavior.inference import KIND, BehaviorInference
from reaseq.behavior.model import BehaviorConfig, BehaviorModel
from reaseq.errors import ArtifactError
from reaseq.knowledge.student import KIND as STUDENT
from reaseq.knowledge.student import Student, StudentConfig, StudentModel
from reaseq.model_artifacts import ITEMS, SIZES, WEIGHTS, publish_model
from reaseq.ranker.engine import KIND as RANKER
from reaseq.ranker.engine import Engine
from reaseq.ranker.item_statistics import FILE, IDS_FILE
from reaseq.ranker.latent import LatentModels, LatentScores
from reaseq.ranker.onnx_forward import FILE as ONNX_FILE
from reaseq.representation.semantic_ids import CENTROIDS, Codebook
from reaseq.representation.semantic_ids import KIND as SEMANTIC_IDS
from reaseq.representation.trained_ids import TrainedIds
from reaseq.settings import SamplerSettings
from tests.fakes.catalog import CATALOG, DIM, VOCABULARY, request
from tests.fakes.ranker import aggregates, publish_behavior, publish_ranker

CONFIG = BehaviorConfig(vector_dim=DIM, claims=VOCABULARY.size, backbone=BackboneConfig(width=32, layers=1, feed=48))


def load(models: Path, model: nn.Module) -> BehaviorInference:
    artifact = publish_model(models, KIND, "v", model, CONFIG, TrainedIds([]), {})
    return BehaviorInference.load(load_version(models, KIND, artifact.version), models, CATALOG, SamplerSettings())


def test_published_model_is_loaded_ready_for_inference(tmp_path: Path) -> None:
    (inferred,) = load(tmp_path, BehaviorModel(CONFIG)).infer([request(3)])

    assert inferred and inferred.item_ids


def test_model_with_other_weight_names_is_rejected(tmp_path: Path) -> None:
    older = BehaviorModel(CONFIG)
    older.renamed = older.types
    del older.types

    with pytest.raises(ArtifactError, match=r"does not fit this version of the code: .* differ in 2 weights, renamed\.weight"):
        load(tmp_path, older)


def test_model_with_other_weight_shapes_is_rejected(tmp_path: Path) -> None:
    older = BehaviorModel(CONFIG)
    older.masks = nn.Parameter(torch.zeros(2, 32))

    with pytest.raises(ArtifactError, match="differ in 1 weights, masks among them"):
        load(tmp_path, older)


Loader = Callable[[Path, str], object]


def load_ranker(models: Path, version: str) -> object:
    return Engine.load(load_version(models, RANKER, version), CATALOG, aggregates(), LatentModels(models))


def load_behavior(models: Path, version: str) -> object:
    return BehaviorInference.load(load_version(models, KIND, version), models, CATALOG, SamplerSettings())


def load_latent_scores(models: Path, version: str) -> object:
    return LatentScores.load(load_version(models, KIND, version))


def load_student(models: Path, version: str) -> object:
    return Student.load(load_version(models, STUDENT, version), VOCABULARY, "s")


def load_codebook(models: Path, version: str) -> object:
    return Codebook.load(load_version(models, SEMANTIC_IDS, version))


def publish_student(models: Path) -> str:
    model = StudentModel(StudentConfig(DIM, VOCABULARY.size - 1, width=8))
    student = Student(model, VOCABULARY, "")
    return student.publish(models, {"vocabulary": VOCABULARY.version, "space_id": "s"}).version


def publish_codebook(models: Path) -> str:
    return publish(models, SEMANTIC_IDS, "v", {CENTROIDS: b"later"}, {"space_id": "s"}).version


def edit_sizes(**changes: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def edit_tensors(edit: Callable[[Tensor], Tensor]) -> Callable[[bytes], bytes]:
    return lambda content: save({name: edit(tensor) for name, tensor in read_tensors(content).items()})


def spoil(tensor: Tensor) -> Tensor:
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


RANKER_MODEL = (RANKER, publish_ranker, load_ranker)
BEHAVIOR_MODEL = (KIND, publish_behavior, load_behavior)
LATENT_SCORES = (KIND, publish_behavior, load_latent_scores)
STUDENT_MODEL = (STUDENT, publish_student, load_student)
CODEBOOK = (SEMANTIC_IDS, publish_codebook, load_codebook)
MODELS = {"ranker": RANKER_MODEL, "behavior": BEHAVIOR_MODEL, "latent": LATENT_SCORES, "student": STUDENT_MODEL}
FAULTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "unknown field": (SIZES, edit_sizes(invented=1)),
    "field of another type": (SIZES, edit_sizes(width="wide", backbone="deep")),
    "sizes that are no object": (SIZES, lambda content: b"[1, 2]"),
    "sizes that are not JSON": (SIZES, lambda content: content[:10]),
    "truncated weights": (WEIGHTS, lambda content: content[:-100]),
    "weights of another type": (WEIGHTS, edit_tensors(Tensor.double)),
    "weights of another format": (WEIGHTS, lambda content: b"\x80\x04K\x01."),
    "weights that are not finite": (WEIGHTS, edit_tensors(spoil)),
}
SPECIFIC_FAULTS: list[tuple[Any, str, Callable[[bytes], bytes]]] = [
    (BEHAVIOR_MODEL, SIZES, edit_sizes(backbone={"invented": 1})),
    (BEHAVIOR_MODEL, ITEMS, lambda content: b'["one"]'),
    (LATENT_SCORES, ITEMS, lambda content: b"[1]"),
    (RANKER_MODEL, ITEMS, lambda content: b'["one"]'),
    (RANKER_MODEL, IDS_FILE, lambda content: b'["one"]'),
    (RANKER_MODEL, FILE, lambda content: save({"invented": torch.zeros(1)})),
    (RANKER_MODEL, ONNX_FILE, lambda content: content[:-100]),
    (RANKER_MODEL, ONNX_FILE, lambda content: b""),
    (CODEBOOK, CENTROIDS, lambda content: b""),
    (CODEBOOK, CENTROIDS, lambda content: save({"invented": torch.zeros(1)})),
]


def reject(models: Path, model: tuple[str, Callable[[Path], str], Loader], file: str, edit: Callable[[bytes], bytes]) -> None:
    """Publish a model, and again with one file edited. The second version must be rejected by name."""
    kind, publish_one, load_one = model
    whole = models / kind / publish_one(models)
    facts = json.loads((whole / "manifest.json").read_text())["facts"]
    files = {path.name: path.read_bytes() for path in whole.iterdir() if path.name != "manifest.json"}
    broken = publish(models, kind, "broken", files | {file: edit(files[file])}, facts).version

    with pytest.raises(ArtifactError, match=broken):
        load_one(models, broken)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("model", MODELS)
def test_model_that_cannot_be_loaded_is_rejected_by_name(tmp_path: Path, model: str, fault: str) -> None:
    _, publish_one, load_one = MODELS[model]
    load_one(tmp_path, publish_one(tmp_path))  # without the fault

    reject(tmp_path, MODELS[model], *FAULTS[fault])


@pytest.mark.parametrize(("model", "file", "edit"), SPECIFIC_FAULTS)
def test_file_that_does_not_fit_the_model_is_rejected_by_name(
    tmp_path: Path, model: tuple[str, Callable[[Path], str], Loader], file: str, edit: Callable[[bytes], bytes]
) -> None:
    reject(tmp_path, model, file, edit)


def test_ranker_without_the_exported_forward_pass_is_to_be_trained_again(tmp_path: Path) -> None:
    """An earlier version of the code published it."""
    whole = tmp_path / RANKER / publish_ranker(tmp_path)
    facts = json.loads((whole / "manifest.json").read_text())["facts"]
    files = {path.name: path.read_bytes() for path in whole.iterdir() if path.name not in ("manifest.json", ONNX_FILE)}
    older = publish(tmp_path, RANKER, "older", files, facts).version

    with pytest.raises(ArtifactError, match=rf"{older} lacks a file .*; train it again: .*{ONNX_FILE}"):
        load_ranker(tmp_path, older)


def test_fact_that_is_missing_is_rejected_by_name(tmp_path: Path) -> None:
    codebook = Codebook(torch.zeros(1, 2, 3).numpy(), "s")
    files = {CENTROIDS: save({"centroids": torch.from_numpy(codebook.centroids)})}
    version = publish(tmp_path, SEMANTIC_IDS, "v", files, {}).version

    with pytest.raises(ArtifactError, match=rf"{version}.*space_id"):
        load_codebook(tmp_path, version)


def test_behavior_model_that_cannot_infer_is_rejected_by_name(tmp_path: Path) -> None:
    """Its codebook encodes a behavior with one digit, but it was trained on two."""
    codebook = Codebook(np.zeros((1, 2, DIM), np.float32), "s")
    files = {CENTROIDS: save({"centroids": torch.from_numpy(codebook.centroids)})}
    codes = publish(tmp_path, SEMANTIC_IDS, "v", files, {"space_id": "s"}).version
    config = replace(CONFIG, codes=(2, 2))
    artifact = publish_model(tmp_path, KIND, "v", BehaviorModel(config), config, TrainedIds([]), {"codebook": codes})

    with pytest.raises(ArtifactError, match=artifact.version):
        load_behavior(tmp_path, artifact.version)
