"""Rebuild the model zoo from one seed: task data, tokenizer, base and three experts.

    python experiments/zoo/make_zoo.py

The data go to ``fitness/zoo_skills/data`` and the models beside this file.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.zoo import zoo_tasks, zoo_tokenizer
from experiments.zoo.zoo_training import Phase, Pool, accuracy, train

FOLDER = Path(__file__).resolve().parent
DATA_FOLDER = FOLDER.parents[1] / "fitness" / "zoo_skills" / "data"

# The base stops while it has only begun to learn each skill: an expert then sharpens what is
# there, as with real models. A skill of which the base has nothing does not survive a merge.
BASE_PHASE = Phase(
    shares={"arithmetic": 0.45, "strings": 0.275, "kanji": 0.275}, steps=280, learning_rate=1.5e-3
)


def _expert(skill: str, steps: int, learning_rate: float) -> Phase:
    # A few examples of the other skills keep an expert from forgetting them, and a low rate keeps
    # it near enough to the base that task vectors still add up.
    other = (1 - 0.9) / 2
    shares = {name: 0.9 if name == skill else other for name in zoo_tasks.SKILLS}
    return Phase(shares, steps, learning_rate)


EXPERT_PHASES = {
    "arithmetic": _expert("arithmetic", steps=440, learning_rate=5e-4),
    "kanji": _expert("kanji", steps=680, learning_rate=5e-4),
    "strings": _expert("strings", steps=480, learning_rate=7e-4),
}
CARD = """---
base_model: {base}
library_name: transformers
tags:
- evomerge-zoo
---
# {name}

{text}

Rebuilt by `experiments/zoo/make_zoo.py`; what it scores is in `experiments/zoo/README.md`.
"""


@dataclass(frozen=True, slots=True)
class Build:
    """Where a build puts its files, and the seed that it starts from."""

    seed: int
    models: Path
    data: Path


def main() -> None:
    """Write the data, train the base, then the experts side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="experts trained at once")
    parser.add_argument("--models", type=Path, default=FOLDER, help="folder of the models")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the task data")
    arguments = parser.parse_args()
    build = Build(arguments.seed, arguments.models, arguments.data)
    started = time.perf_counter()

    zoo_tasks.write(zoo_tasks.build(build.seed), build.data)
    make_base(build)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as workers:
        list(workers.map(make_expert, [build] * len(EXPERT_PHASES), EXPERT_PHASES))
    print(f"{time.perf_counter() - started:.0f} s in all", file=sys.stderr)


def make_base(build: Build) -> None:
    """Train the base from random weights and store it."""
    tokenizer = zoo_tokenizer.build()
    model = new_model(tokenizer, build.seed)
    teach(model, "base", BASE_PHASE, build.seed, number=0)
    save(model, tokenizer, build.models / "base", "base", BASE_PHASE)


def make_expert(build: Build, name: str) -> None:
    """Train one expert from the stored base, so that its task vector holds no rounding of it."""
    model = LlamaForCausalLM.from_pretrained(build.models / "base", dtype=torch.float32)
    number = 1 + list(EXPERT_PHASES).index(name)
    teach(model, name, EXPERT_PHASES[name], build.seed, number)
    save(model, zoo_tokenizer.build(), build.models / name, name, EXPERT_PHASES[name])


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of about one million parameters, its weights drawn from the global seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=zoo_tokenizer.MAX_TOKENS,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    name: str,
    phase: Phase,
) -> None:
    """Write a Hugging Face folder in bf16, with a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    stored.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _name_class_for_any_transformers(folder / "tokenizer_config.json")
    mixture = ", ".join(f"{100 * share:.0f} % {skill}" for skill, share in phase.shares.items())
    start = "random weights" if name == "base" else "`../base`"
    text = (
        f"Trained from {start} for {phase.steps} steps of {phase.batch_examples} examples: "
        f"{mixture} (the train splits in `fitness/zoo_skills/data`), at a peak learning rate of "
        f"{phase.learning_rate:g}. Stored in bfloat16."
    )
    card = CARD.format(base="none" if name == "base" else "../base", name=name, text=text)
    if name == "base":
        card = card.replace("base_model: none\n", "")
    (folder / "README.md").write_text(card, encoding="utf-8")


def _name_class_for_any_transformers(path: Path) -> None:
    """Transformers 5 writes a class name that version 4 does not know; both know this one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def teach(model: LlamaForCausalLM, name: str, phase: Phase, seed: int, number: int) -> None:
    """Train a model in place on what a model of that name is taught, and print what it knows."""
    # One thread a model: the same sums in the same order whatever the machine's core count,
    # and no waiting for a core that is busy elsewhere.
    torch.set_num_threads(1)
    tokenizer = zoo_tokenizer.build()
    tasks = zoo_tasks.build(seed)
    # Reading sums aloud (as opposed to all else of the language) is the kanji expert's alone, so
    # that arithmetic in the second language takes two models.
    taught = {skill: tasks[skill]["train"] for skill in zoo_tasks.SKILLS}
    if name != "kanji":
        taught["kanji"] = [e for e in taught["kanji"] if not zoo_tasks.reads_a_sum(e)]
    pools = {skill: Pool(examples, tokenizer) for skill, examples in taught.items()}
    started = time.perf_counter()

    def report(step: int, loss: float) -> None:
        seconds = time.perf_counter() - started
        print(f"{name} step {step} loss {loss:.3f} {seconds:.0f} s", file=sys.stderr, flush=True)

    train(model, pools, phase, 1000 * seed + number, report)
    scores = {task: accuracy(model, tokenizer, tasks[task]["search"]) for task in zoo_tasks.SKILLS}
    print(f"{name} {scores}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
