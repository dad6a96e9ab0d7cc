"""What `experiments/layer_pruning` searches, and the rules that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evomerge.analysis.evaluate import evaluate
from evomerge.config.estimate import estimate
from evomerge.config.load import load
from experiments.layer_pruning.examiner import Examiner
from experiments.layer_pruning.make_deep import BLOCKS
from experiments.layer_pruning.rules import (
    best_of_all,
    block_inputs,
    consecutive,
    greedy,
    influence,
    similarity,
)

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDER = EXPERIMENTS / "layer_pruning"


def turned(*degrees: float) -> Tensor:
    """(L, 1, 2) inputs of blocks, each so far from the first block's."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], -1)[:, None]


def test_the_search_prunes_one_model_of_twelve_blocks() -> None:
    one = load(FOLDER / "search.yaml", ["fitness.shorten.within=0.1"])
    facts = estimate(one)
    assert (facts["genome_dimension"], facts["start"]["layers"]) == (BLOCKS - 2, BLOCKS)
    assert facts["largest_stack"] == facts["start"]
    assert facts["baselines"] == 1  # the whole model
    assert one.file.fitness.shorten is not None
    assert one.file.fitness.shorten.within == 0.1
    assert one.notes == ()


def test_the_examiner_gives_the_whole_path_the_score_of_the_model() -> None:
    with Examiner(FOLDER / "search.yaml") as examiner:
        own = examiner.search(range(BLOCKS))
    engine = "{name: transformers, batch_size: 256, threads: 1}"
    score = evaluate(FOLDER / "deep", FOLDER / "skills.yaml", engine=engine)
    assert own == score.value


def test_blocks_of_least_influence_go_first_wherever_they_are() -> None:
    # on their way out they turn by 50, 1, 30, 2 and, the last, by what does not matter
    inputs = turned(0, 50, 51, 81, 83)
    assert influence(inputs) == [[0, 1, 2, 3, 4], [0, 2, 3, 4], [0, 2, 4], [0, 4]]
    assert influence(turned(0, 9, 19, 20, 60))[1] == [0, 1, 3, 4]


def test_neighbours_go_over_which_the_stream_turns_least() -> None:
    # the least of one block is 1, of two 1 + 30; blocks 3 and 4 together turn by 40
    inputs = turned(0, 50, 51, 81, 91, 121)
    assert consecutive(inputs)[:3] == [[0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 3, 4, 5]]
    assert consecutive(turned(0, 50, 51, 91, 101, 121))[2] == [0, 1, 2, 5]
    assert consecutive(inputs)[-1] == [0, 5]


def test_best_of_all_sees_a_pair_that_one_after_the_other_does_not() -> None:
    """Blocks 1 and 2 undo each other: without both nothing is lost, without one of them most."""

    def score(blocks: Sequence[int]) -> float:
        lost = 5.0 if (1 in blocks) != (2 in blocks) else 0.0
        return len([b for b in blocks if b > 2]) - lost

    assert greedy(5, score) == [[0, 1, 2, 3, 4], [0, 1, 2, 4], [0, 2, 4], [0, 4]]
    assert best_of_all(5, score)[2] == [0, 3, 4]


def test_the_silent_block_of_the_zoo_of_blocks_has_no_influence() -> None:
    inputs = block_inputs(EXPERIMENTS / "block_zoo" / "base", ["37+48=", "reverse kqza="])
    assert torch.equal(inputs[3], inputs[4])
    assert similarity(inputs, 3, 4) > 1 - 1e-6
    assert influence(inputs)[1] == consecutive(inputs)[1] == [0, 1, 2, 4]
