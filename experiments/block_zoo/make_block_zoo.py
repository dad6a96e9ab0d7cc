"""Make the zoo of blocks: a base with a block that does nothing, and experts that train it alone.

    python experiments/block_zoo/make_block_zoo.py

Source: LLaMA Pro, Wu et al. 2024, arXiv:2401.02415 (block expansion).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.zoo import zoo_tasks, zoo_tokenizer
from experiments.zoo.make_zoo import FOLDER as ZOO
from experiments.zoo.make_zoo import save, teach
from experiments.zoo.zoo_training import Phase

FOLDER = Path(__file__).resolve().parent
NEW = 3  # the new block's number: behind it comes the last
EXPERTS = ("arithmetic", "kanji")
CARD = """---
{base_model}library_name: transformers
tags:
- evomerge-zoo
---
# {name}

{text}

Rebuilt by `experiments/block_zoo/make_block_zoo.py`; what it scores is in
`experiments/dataflow_zoo/README.md`.
"""


def main() -> None:
    """Write the base, then the experts, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the models")
    parser.add_argument("--experts", nargs="*", default=list(EXPERTS), choices=EXPERTS)
    options = parser.parse_args()
    started = time.perf_counter()
    if not (options.models / "base").exists():
        _write(expanded(), options.models / "base", "base", Phase({}, 0, 0.0))
    for name in options.experts:
        model = LlamaForCausalLM.from_pretrained(options.models / "base", dtype=torch.float32)
        model.requires_grad_(False)
        model.model.layers[NEW].requires_grad_(True)
        phase = _phase(name)
        teach(model, name, phase, 0, 11 + EXPERTS.index(name))
        _write(model, options.models / name, name, phase)
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)


def expanded() -> LlamaForCausalLM:
    """The zoo's base with one more block, a copy of the one before whose outputs are zero."""
    old = LlamaForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32)
    config = LlamaConfig(**{**old.config.to_dict(), "num_hidden_layers": NEW + 2})
    new = LlamaForCausalLM(config)
    weights = {}
    for name, weight in old.state_dict().items():
        block = f"model.layers.{NEW}."
        weights[name.replace(block, f"model.layers.{NEW + 1}.")] = weight
        if name.startswith(f"model.layers.{NEW - 1}."):
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            copied = torch.zeros_like(weight) if silent else weight.clone()
            weights[name.replace(f"model.layers.{NEW - 1}.", block)] = copied
    new.load_state_dict(weights)
    return new.eval()


def _phase(skill: str) -> Phase:
    other = (1 - 0.9) / 2
    shares = {name: 0.9 if name == skill else other for name in zoo_tasks.SKILLS}
    return Phase(shares, steps=400, learning_rate=2e-3)


def _write(model: LlamaForCausalLM, folder: Path, name: str, phase: Phase) -> None:
    save(model, zoo_tokenizer.build(), folder, name, phase)
    text = (
        "The zoo's base with one more block before its last, a copy whose output projections are "
        "zero: it does nothing."
    )
    if phase.steps:
        mixture = ", ".join(f"{100 * share:.0f} % {skill}" for skill, share in phase.shares.items())
        text = (
            f"`../base`, of which block {NEW} alone was trained, for {phase.steps} steps of "
            f"{phase.batch_examples} examples: {mixture}, at a peak learning rate of "
            f"{phase.learning_rate:g}. Stored in bfloat16."
        )
    base = "base_model: ../base\n" if phase.steps else ""
    card = CARD.format(base_model=base, name=name, text=text)
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
