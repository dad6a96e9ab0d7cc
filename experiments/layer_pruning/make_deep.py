"""Make the model to prune: twelve narrow blocks, trained from random weights on three skills.

python experiments/layer_pruning/make_deep.py
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
from experiments.zoo.make_zoo import save
from experiments.zoo.zoo_training import Phase, Pool, accuracy, train

FOLDER = Path(__file__).resolve().parent
BLOCKS = 12
PHASE = Phase(
    shares={"arithmetic": 0.4, "kanji": 0.3, "strings": 0.3}, steps=900, learning_rate=2e-3
)
CARD = """---
library_name: transformers
tags:
- evomerge-zoo
---
# deep

Trained from random weights for {steps} steps of {batch} examples: {mixture}
(the train splits in `fitness/zoo_skills/data`), at a peak learning rate of {rate:g}.
Stored in bfloat16.

Rebuilt by `experiments/layer_pruning/make_deep.py`; what it scores is in
`experiments/layer_pruning/README.md`.
"""


def main() -> None:
    """Train it and store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the model")
    options = parser.parse_args()
    started = time.perf_counter()
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    tokenizer = zoo_tokenizer.build()
    model = new_model(len(tokenizer))
    tasks = zoo_tasks.build(0)
    pools = {skill: Pool(tasks[skill]["train"], tokenizer) for skill in zoo_tasks.SKILLS}

    def report(step: int, loss: float) -> None:
        seconds = time.perf_counter() - started
        print(f"step {step} loss {loss:.3f} {seconds:.0f} s", file=sys.stderr, flush=True)

    train(model, pools, PHASE, 0, report)
    scores = {task: accuracy(model, tokenizer, tasks[task]["search"]) for task in zoo_tasks.SKILLS}
    print(f"deep {scores}", file=sys.stderr, flush=True)
    save(model, tokenizer, options.models / "deep", "base", PHASE)
    mixture = ", ".join(f"{100 * share:.0f} % {skill}" for skill, share in PHASE.shares.items())
    card = CARD.format(
        steps=PHASE.steps, batch=PHASE.batch_examples, mixture=mixture, rate=PHASE.learning_rate
    )
    (options.models / "deep" / "README.md").write_text(card, encoding="utf-8")


def new_model(tokens: int, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 1.4 million parameters, its weights drawn from the global seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=zoo_tokenizer.MAX_TOKENS,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


if __name__ == "__main__":
    main()
