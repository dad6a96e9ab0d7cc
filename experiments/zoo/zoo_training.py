"""Train one small Llama on weighted pools of examples, and answer prompts greedily."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.zoo.zoo_tasks import Example

ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Phase:
    """One training run: what is mixed, how long, how fast.

    Attributes:
        shares: for each skill, its fraction of every batch; they sum to 1.
        steps: batches.
        learning_rate: peak rate, reached after 5 % of the steps; a cosine takes it to a tenth.
        batch_examples: examples a batch.
        weight_decay: AdamW's.
    """

    shares: Mapping[str, float]
    steps: int
    learning_rate: float
    batch_examples: int = 256
    weight_decay: float = 0.01


class Pool:
    """Encoded examples of one skill: ``prompt + answer + eos``, padded on the right."""

    def __init__(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast) -> None:
        prompts = [tokenizer(e.prompt).input_ids for e in examples]
        answers = [[*tokenizer(e.answer).input_ids, tokenizer.eos_token_id] for e in examples]
        longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        self.tokens = torch.full((len(examples), longest), int(tokenizer.pad_token_id))
        self.loss_weights = torch.zeros(len(examples), longest)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            self.tokens[row, :end] = torch.tensor(prompt + answer)
            self.loss_weights[row, len(prompt) : end] = 1.0


def train(
    model: LlamaForCausalLM,
    pools: Mapping[str, Pool],
    phase: Phase,
    seed: int,
    report: Callable[[int, float], None],
) -> None:
    """Train ``model`` in place; ``report(step, loss)`` is called about ten times."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=phase.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=phase.weight_decay,
    )
    warmup = max(1, phase.steps // 20)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, phase.steps - warmup)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    for step in range(phase.steps):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for skill in sorted(phase.shares):
            # Each skill passes alone, padded to its own length only.
            loss = _loss(model, *_rows(pools[skill], phase, skill, generator))
            (phase.shares[skill] * loss).backward()  # type: ignore[no-untyped-call]
            total += phase.shares[skill] * loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, phase.steps // 10) == 0:
            report(step + 1, total)
    model.eval()


def _rows(
    pool: Pool, phase: Phase, skill: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count = max(1, round(phase.shares[skill] * phase.batch_examples))
    rows = torch.randint(len(pool.tokens), (count,), generator=generator)
    return pool.tokens[rows], pool.loss_weights[rows]


def _loss(model: LlamaForCausalLM, tokens: Tensor, loss_weights: Tensor) -> Tensor:
    """Mean cross entropy of the answers' tokens."""
    # Padding is on the right, where causal attention never looks: no mask is needed.
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    weights = loss_weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]
) -> list[str]:
    """Greedy continuations up to eos, a line break or ``ANSWER_TOKENS``, in the prompts' order."""
    encoded = [tokenizer(prompt).input_ids for prompt in prompts]
    rows_of_length: dict[int, list[int]] = {}
    for row, tokens in enumerate(encoded):
        rows_of_length.setdefault(len(tokens), []).append(row)
    answers = [""] * len(prompts)
    # Prompts of one length need no padding.
    for length in sorted(rows_of_length):
        rows = rows_of_length[length]
        current = torch.tensor([encoded[row] for row in rows])
        cache = DynamicCache()
        written: list[Tensor] = []
        ended = torch.zeros(len(rows), dtype=torch.bool)
        while len(written) < ANSWER_TOKENS and not ended.all():
            out = model(input_ids=current, past_key_values=cache, use_cache=True)
            current = out.logits[:, -1].argmax(-1, keepdim=True)
            written.append(current)
            ended |= current[:, 0] == tokenizer.eos_token_id
        for row, tokens in zip(rows, torch.cat(written, 1).tolist(), strict=True):
            kept = (
                tokens[: tokens.index(tokenizer.eos_token_id)]
                if (tokenizer.eos_token_id in tokens)
                else tokens
            )
            answers[row] = tokenizer.decode(kept, skip_special_tokens=True).split("\n")[0]
    return answers


def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]
) -> float:
    """The fraction of examples answered exactly, in [0, 1]."""
    given = answer(model, tokenizer, [example.prompt for example in examples])
    return sum(g == e.answer for g, e in zip(given, examples, strict=True)) / len(examples)
