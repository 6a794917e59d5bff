"""LLaDA checkpoints on the backbone, compared with the LLaMA of `transformers` with a full attention mask."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from reaseq.behavior.backbone import PRESETS
from reaseq.behavior.llada import load_backbone, read_config
from reaseq.errors import ArtifactError

SIZES = {
    "d_model": 64,
    "n_layers": 3,
    "n_heads": 8,
    "n_kv_heads": 4,
    "mlp_hidden_size": 96,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
}
TO_LLAMA = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def random_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "attn_out": (64, 64)}
    shapes |= {"ff_proj": (96, 64), "up_proj": (96, 64), "ff_out": (64, 96)}
    weights = {
        f"model.transformer.blocks.{layer}.{name}.weight": torch.randn(shape) * 0.1
        for layer in range(3)
        for name, shape in shapes.items()
    }
    for layer in range(3):
        for name in ("attn_norm", "ff_norm"):
            weights[f"model.transformer.blocks.{layer}.{name}.weight"] = 1 + torch.randn(64) * 0.1
    weights["model.transformer.ln_f.weight"] = 1 + torch.randn(64) * 0.1
    weights["model.transformer.wte.weight"] = torch.randn(100, 64)
    weights["model.transformer.ff_out.weight"] = torch.randn(100, 64)
    return weights


def checkpoint(folder: Path, *, sharded: bool = False, **changes: object) -> Path:
    (folder / "config.json").write_text(json.dumps(SIZES | changes))
    weights = random_weights()
    if not sharded:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, shard in shards.items():
        save_file({name: weights[name] for name in shard}, folder / file)
    index = {name: file for file, shard in shards.items() for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def reference() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=96,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    model: LlamaModel = LlamaModel._from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    renamed = {"norm.weight": "model.transformer.ln_f.weight", "embed_tokens.weight": "model.transformer.wte.weight"}
    for layer in range(3):
        for theirs, ours in TO_LLAMA.items():
            renamed[f"layers.{layer}.{ours}.weight"] = f"model.transformer.blocks.{layer}.{theirs}.weight"
    weights = random_weights()
    model.requires_grad_(False)
    model.load_state_dict({name: weights[source] for name, source in renamed.items()})
    return model


@pytest.mark.parametrize("sharded", [False, True])
def test_hidden_states_equal_those_of_a_bidirectional_llama(tmp_path: Path, sharded: bool) -> None:
    x = torch.randn(2, 11, 64, generator=torch.Generator().manual_seed(1))
    backbone = load_backbone(checkpoint(tmp_path, sharded=sharded))

    with torch.inference_mode():
        ours = backbone(x, torch.ones(2, 1, 11, dtype=torch.bool), torch.arange(11).expand(2, 11))
        everything = torch.zeros(2, 1, 11, 11)  # nothing is masked: bidirectional
        theirs = reference()(inputs_embeds=x, attention_mask=everything).last_hidden_state
        causal = reference()(inputs_embeds=x).last_hidden_state

    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, causal, atol=1e-2)


def test_backbone_does_not_attend_to_padding(tmp_path: Path) -> None:
    x = torch.randn(1, 6, 64)
    backbone = load_backbone(checkpoint(tmp_path))
    present = torch.tensor([[[False, False, True, True, True, True]]])

    with torch.inference_mode():
        padded = backbone(x, present, torch.arange(6).unsqueeze(0))[:, 2:]
        alone = backbone(x[:, 2:], torch.ones(1, 1, 4, dtype=torch.bool), torch.arange(2, 6).unsqueeze(0))

    assert torch.allclose(padded, alone, atol=1e-5)


def test_llada_preset_has_the_published_sizes(tmp_path: Path) -> None:
    published = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "mlp_hidden_size": 12288}
    (tmp_path / "config.json").write_text(json.dumps(SIZES | published))

    assert read_config(tmp_path) == PRESETS["llada-8b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"block_type": "sequential"}, "block_type"), ({"d_model": 128}, "its config says"), ({"n_layers": 4}, "has no weight")],
)
def test_incompatible_checkpoint_is_rejected_with_the_reason(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_backbone(checkpoint(tmp_path, sharded=False, **changes))


def test_folder_without_a_checkpoint_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a LLaDA checkpoint"):
        load_backbone(tmp_path)
