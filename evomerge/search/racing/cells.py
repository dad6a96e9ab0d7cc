"""Scores example by example: which are missing, and what they add up to."""

from __future__ import annotations

from evomerge.types import Cells, Portion, TaskScores


def lacking(asked: Portion, known: Cells) -> dict[str, tuple[int, ...]]:
    """The examples that have no score yet; tasks without any are left out."""
    missing = {
        task: tuple(example for example in ids if example not in known.get(task, {}))
        for task, ids in asked.items()
    }
    return {task: ids for task, ids in missing.items() if ids}


def task_scores(asked: Portion, known: Cells) -> dict[str, TaskScores]:
    """Scores by task, each the mean of its examples, as a worker that was asked them gives them."""
    scores = {}
    for task, ids in asked.items():
        of_examples = tuple(known[task][example] for example in ids)
        # summed as lm-eval does
        scores[task] = TaskScores(sum(of_examples) / len(ids), ids, of_examples)
    return scores
