"""A tiny language model with random weights, for tests of the serving path.

The architecture is Qwen3, which vLLM serves. The tokenizer is trained on the project's prompts and sample titles.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

TOKENS = 4096
CONTEXT_TOKENS = 16_384
SEED = 7
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_model(folder: Path) -> Path:
    """The model's directory, generated on first use within a few seconds. If it exists, it is complete."""
    if folder.exists():
        return folder
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=TURN_END)  # type: ignore[no-untyped-call]
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(partial)
    torch.manual_seed(SEED)
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        eos_token_id=wrapped.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    Qwen3ForCausalLM(config).save_pretrained(partial)  # type: ignore[no-untyped-call]
    partial.rename(folder)
    return folder


def _texts() -> Iterator[str]:
    import pyarrow.parquet as pq

    from demo import ANSWERS, VOCABULARY
    from reaseq.knowledge.agents.prompts import make_agents
    from reaseq.knowledge.vocabulary import load_vocabulary

    for agent in make_agents(load_vocabulary(VOCABULARY), reasoning_limit_chars=200).values():
        yield agent.system
    for answer in pq.read_table(ANSWERS, columns=["description", "profile"]).to_pylist():
        yield from answer.values()
