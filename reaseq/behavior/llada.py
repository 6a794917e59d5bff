"""Loads LLaDA checkpoints (safetensors, one file or sharded) as the backbone of the behavior model.

Only the transformer is loaded, not the token embeddings: behaviors have their own tokens.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from reaseq.behavior.backbone import Backbone, BackboneConfig
from reaseq.errors import ArtifactError

ROOT = "model.transformer"
BLOCK = {
    "attn_norm": "attention_norm",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "attn_out": "o",
    "ff_norm": "feed_norm",
    "ff_proj": "gate",
    "up_proj": "up",
    "ff_out": "down",
}
REQUIRED = {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "include_bias": False, "alibi": False}


def read_config(folder: Path) -> BackboneConfig:
    """The sizes of a checkpoint. Raises ArtifactError if it is not of the LLaDA family."""
    try:
        config = json.loads((folder / "config.json").read_text())
        for name, expected in REQUIRED.items():
            if config.get(name, expected) != expected:
                raise ArtifactError(
                    f"{folder / 'config.json'}: {name} is {config[name]!r}, but a LLaDA backbone needs {expected!r}"
                )
        return BackboneConfig(
            width=config["d_model"],
            layers=config["n_layers"],
            heads=config["n_heads"],
            kv_heads=config.get("n_kv_heads") or config["n_heads"],
            feed=config["mlp_hidden_size"],
            rope_base=config.get("rope_theta", 10_000.0),
            norm_eps=config.get("rms_norm_eps", 1e-5),
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder} is not a LLaDA checkpoint: {error!r}") from error


def load_backbone(folder: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    """The backbone with the weights of a checkpoint, in `dtype`.

    Raises ArtifactError if a weight is missing or has another shape than the checkpoint's config implies.
    """
    config = read_config(folder)
    with torch.device("meta"):  # allocates nothing: the weights are replaced below
        backbone = Backbone(config).to(dtype)
    files = _files(folder)
    weights = {}
    for ours, theirs in _weight_names(config).items():
        if theirs not in files:
            raise ArtifactError(f"{folder} has no weight {theirs}")
        with safe_open(files[theirs], framework="pt") as opened:
            weights[ours] = opened.get_tensor(theirs).to(dtype)
        expected = backbone.get_parameter(ours).shape
        if weights[ours].shape != expected:
            raise ArtifactError(f"{folder}: {theirs} has shape {tuple(weights[ours].shape)}; its config says {tuple(expected)}")
    backbone.load_state_dict(weights, assign=True)
    return backbone


def _weight_names(config: BackboneConfig) -> dict[str, str]:
    """The checkpoint's name of each weight of the backbone."""
    names = {"norm.weight": f"{ROOT}.ln_f.weight"}
    for layer in range(config.layers):
        for theirs, ours in BLOCK.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"{ROOT}.blocks.{layer}.{theirs}.weight"
    return names


def _files(folder: Path) -> dict[str, Path]:
    """The file of each weight."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    single = folder / "model.safetensors"
    if not single.exists():
        raise ArtifactError(f"{folder} has neither {single.name} nor {index.name}")
    with safe_open(single, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), single)
