"""Which tensors of open models make each one of the merged model, once it is sure that they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import PlanError
from evomerge.recipes import BASE, Recipe
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.checks.lacking import Lacks, lacks
from evomerge.weights.checks.mismatches import (
    config_problems,
    shape_problems,
    token_number_problems,
)
from evomerge.weights.slots import (
    Slot,
    align_tensors,
    keep_outside,
    module_problems,
    range_problems,
)
from evomerge.weights.stacks.block_numbers import Described, Origins
from evomerge.weights.tokens.token_names import mixed_rows, table_height

if TYPE_CHECKING:
    from evomerge.weights.tokens.vocabulary import Vocabulary

Slices = Sequence[Mapping[str, tuple[int, int]]]


class Alignment(NamedTuple):
    """What models that fit together have in common.

    Attributes:
        vocabulary: of the merged model; None where rows are not aligned.
        slots: every tensor of the merged model.
        lack_notes: a sentence for each model that takes no part in some tensors.
        stack_notes: sentences about what a stack changes of its blocks.
    """

    vocabulary: Vocabulary | None
    slots: tuple[Slot, ...]
    lack_notes: list[str]
    stack_notes: list[str]


def align(
    recipe: Recipe, base: Checkpoint, sources: Mapping[str, Checkpoint], *, untied: bool
) -> Alignment:
    """Match the tensors of models, and their tokens where these differ.

    Args:
        recipe: how they are matched.
        untied: whether the merged model has a head of its own.

    Raises:
        PlanError: models that do not fit together, all mismatches at once.
    """
    stacked = _stacked(recipe.slices)
    problems = config_problems(base, sources, sliced=bool(recipe.slices), stacked=set(stacked))
    if recipe.tokenizer is None or base.embedding is None:
        problems += mixed_rows(base, sources)
    vocabulary, rows = _vocabulary(recipe, base, sources, problems)
    wrong = list(range_problems(recipe.slices, base, sources))
    if wrong:
        raise PlanError([*problems, *wrong])
    stack_notes = []
    blocks = described(origins(recipe.slices, {BASE: base, **sources}))
    if blocks is not None and not base.bare:
        from evomerge.weights.stacks.stacking import stack_verdict  # which imports Transformers

        verdict = stack_verdict(Described(base.config, base.layers), blocks)
        problems += verdict.problems
        stack_notes = verdict.notes
    slots = align_tensors(base, sources, recipe.slices, untied=untied, rows=rows)
    problems += module_problems(slots, recipe.modules)
    slots = keep_outside(slots, recipe.modules)
    owner = base if vocabulary is None else vocabulary.owner
    problems += dict.fromkeys([*base.damage, *owner.damage])
    found = Lacks([], [])
    if not problems:  # models of other architectures lack each other's tensors
        found = lacks(base, sources, slots, stacked=stacked, allowed=recipe.allow_missing)
    # without its embedding nothing is known of a model's other tables
    problems += found.problems or shape_problems(slots, base, sources, vocabulary)
    problems += token_number_problems(slots, base, sources, vocabulary)
    if problems:
        raise PlanError(problems)
    return Alignment(vocabulary, slots, found.notes, stack_notes)


def _vocabulary(
    recipe: Recipe, base: Checkpoint, sources: Mapping[str, Checkpoint], problems: list[str]
) -> tuple[Vocabulary | None, int | None]:
    """The merged model's tokens, and how many rows their tables have; None where none is aligned.

    Args:
        problems: what is wrong with them is added.
    """
    members = dict.fromkeys((base, *sources.values()))
    heights = {table_height(model) for model in members if model.embedding is not None}
    if recipe.tokenizer is None and len(heights) < 2:
        return None, None
    from evomerge.weights.tokens.vocabulary import merged_vocabulary  # which imports torch

    vocabulary: Vocabulary | None = None
    try:
        vocabulary = merged_vocabulary(base, sources, recipe.tokenizer)
        if vocabulary is None:
            return None, None
        rows = vocabulary.padded_rows
        problems += vocabulary.problems()
    except PlanError as error:
        problems += error.problems
        rows = 0  # so that tables of different heights are not reported as well
    return vocabulary, rows


def _stacked(slices: Slices) -> dict[str, set[int]]:
    """By model whose blocks are stacked those that it gives; empty where blocks are merged."""
    found: dict[str, set[int]] = {}
    if all(len(slice_) == 1 for slice_ in slices):
        for slice_ in slices:
            for name, (start, end) in slice_.items():
                found.setdefault(name, set()).update(range(start, end))
    return found


def origins(
    slices: Slices, models: Mapping[str, Checkpoint]
) -> list[tuple[Checkpoint, int]] | None:
    """For each block the model whose config describes it, and its number in that model.

    The first model that a slice names counts; None without slices.
    """
    if not slices:
        return None
    first = [next(iter(slice_.items())) for slice_ in slices]
    return [(models[name], block) for name, (start, end) in first for block in range(start, end)]


def described(blocks: Sequence[tuple[Checkpoint, int]] | None) -> Origins | None:
    """As `origins`, with no more of the models than their configs."""
    if blocks is None:
        return None
    return [(Described(model.config, model.layers), own) for model, own in blocks]
