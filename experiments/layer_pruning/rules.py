"""Which blocks to leave out without a search: by hidden states, or one after the other by score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, AutoTokenizer

Score = Callable[[Sequence[int]], float]


@torch.inference_mode()
def block_inputs(model: Path, prompts: Sequence[str]) -> Tensor:
    """(L, T, width) what goes into each of the L blocks at all T tokens of the prompts."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for prompt in prompts:
        tokens = torch.tensor([tokenizer(prompt).input_ids])
        # the last of them has gone through the final norm, and into no block
        states = network(tokens, output_hidden_states=True).hidden_states[:-1]
        found.append(torch.cat(states))
    return torch.cat(found, 1)


def similarity(inputs: Tensor, first: int, second: int) -> float:
    """Mean cosine of what goes into two blocks, over tokens."""
    return float(cosine_similarity(inputs[first], inputs[second], dim=-1).mean())


def influence(inputs: Tensor) -> list[list[int]]:
    """The blocks that stay when none, one, two, ... of those of least influence are left out.

    The first and the last stay, as in the space `dataflow`.

    Args:
        inputs: from `block_inputs`.

    Source: Men et al. 2024, arXiv:2403.03853 (ShortGPT), whose block influence of a block is one
    less the cosine of what goes in and what comes out.
    """
    blocks = list(range(len(inputs)))
    change = {a: 1 - similarity(inputs, a, b) for a, b in pairwise(blocks) if a > 0}
    order = sorted(change, key=lambda block: (change[block], block))
    return [sorted(set(blocks) - set(order[:count])) for count in range(len(order) + 1)]


def consecutive(inputs: Tensor) -> list[list[int]]:
    """The same with neighbours left out: those over which the stream turns least.

    Source: Gromov et al. 2024, arXiv:2403.17887, who take the angle at the last token.
    """
    blocks = range(len(inputs))
    found = [list(blocks)]
    for count in range(1, len(blocks) - 1):
        starts = range(1, len(blocks) - count)
        start = max(starts, key=lambda s, n=count: (similarity(inputs, s, s + n), -s))  # type: ignore[misc]
        found.append([b for b in blocks if not start <= b < start + count])
    return found


def greedy(layers: int, score: Score) -> list[list[int]]:
    """The same with one block after the other left out: always that which costs least.

    Args:
        score: of a model of these blocks, higher is better; called (L - 2)(L - 1) / 2 times.
    """
    found = [list(range(layers))]
    while len(found[-1]) > 2:
        shorter = [[b for b in found[-1] if b != gone] for gone in found[-1][1:-1]]
        found.append(max(shorter, key=score))
    return found


def best_of_all(layers: int, score: Score) -> list[list[int]]:
    """The same with whichever blocks left out that score best, of all 2^(L - 2) choices."""
    between = range(1, layers - 1)
    return [
        max(([0, *kept, layers - 1] for kept in combinations(between, count)), key=score)
        for count in range(layers - 2, -1, -1)
    ]
