"""Tiny models of random weights, deep enough for recipes that were written for large ones."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TOKENS = 1400
SIZES: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16},
}
SEES: dict[str, Any] = {
    **{"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "head_dim": 8},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
}
BASE, DELTA, CHANGED = 0.02, 0.002, 0.7
RANK = 4
MARKS = ("<|im_start|>", "<|im_end|>")


def make_model(folder: Path, name: str, blocks: int, own_tokens: bool) -> Path:
    """A Llama, or where the name has ``vl`` in it a Mistral 3, in float32, so that no two agree.

    Args:
        folder: is made, unless it is there.
        name: decides what a model adds to the base's weights, in `CHANGED` of all elements.
        blocks: of the language model.
        own_tokens: whether it has a vocabulary of its own, which overlaps with the others'.
    """
    if (folder / "tokenizer.json").exists():
        return folder
    words, added = _words(name if own_tokens else "", own_tokens)
    if name == "longer":
        added = list(MARKS)
    if name == "renamed":
        words[3] = MARKS[0]
    sizes = {**SIZES, "num_hidden_layers": blocks, "vocab_size": len(words) + len(added)}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model: Any
    if "vl" in name:
        text = {"model_type": "mistral", **sizes, **ids}
        model = Mistral3ForConditionalGeneration(
            Mistral3Config(text_config=text, vision_config=SEES, tie_word_embeddings=False)
        )
    else:
        model = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **sizes, **ids))
    for key, parameter in model.named_parameters():
        parameter.data = _weights(name, key, tuple(parameter.shape))
    model.save_pretrained(folder)
    _write_tokenizer(folder, words, added, "{{ messages }}")
    return folder


def make_adapter(folder: Path, name: str, blocks: int) -> Path:
    """A LoRA adapter for any of the Llamas.

    Args:
        folder: is made, unless it is there.
        name: decides its matrices.
        blocks: of the model.
    """
    if (folder / "adapter_config.json").exists():
        return folder
    folder.mkdir(parents=True)
    sizes = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (64, 128)}
    tensors = {}
    for block in range(blocks):
        for layer, (rows, columns) in sizes.items():
            key = f"base_model.model.model.layers.{block}.{layer}"
            tensors[f"{key}.lora_A.weight"] = _weights(name, f"{key}.A", (RANK, columns))
            tensors[f"{key}.lora_B.weight"] = _weights(name, f"{key}.B", (rows, RANK))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    config |= {"target_modules": [layer.partition(".")[2] for layer in sizes]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _weights(name: str, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    def generator(seed: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(seed.encode()))

    found = BASE * torch.randn(shape, generator=generator(key)) + (len(shape) == 1)
    if name == "base":
        return found
    own = generator(f"{name} {key}")
    kept = torch.rand(shape, generator=own) < CHANGED
    return found + DELTA * kept * torch.randn(shape, generator=own)


def _words(name: str, chat: bool) -> tuple[list[str], list[str]]:
    """Words in an order that the name decides, and tokens that are added behind them."""
    first = zlib.crc32(name.encode()) % 7 if name else 0
    words = [f"w{100 * first + number}" for number in range(TOKENS)]
    turned = words[first:] + words[:first]
    marks = list(MARKS) if name == "chatml" else []
    return [*SPECIAL, *turned], marks if chat else []


def _write_tokenizer(folder: Path, words: Sequence[str], added: Sequence[str], chat: str) -> None:
    vocabulary = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    pad, start, end, unknown = words[:4]
    names = {"pad_token": pad, "bos_token": start, "eos_token": end, "unk_token": unknown}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names
    )
    fast.chat_template = chat
    fast.save_pretrained(folder)
