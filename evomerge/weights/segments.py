"""Where the tensors of open models lie in canonical order, and Gram matrices up to there."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import PlanError, RecipeError
from evomerge.operators import Stack, prefix_grams
from evomerge.recipes.layout import Chromosomes, Layout, lay_out
from evomerge.weights.models import Models, Slot

Floats = NDArray[np.float64]


def layout_of(models: Models, chromosomes: Chromosomes, *, task_vectors: bool = False) -> Layout:
    """The merged tensors of some models laid end to end.

    Args:
        task_vectors: whether the base must have them, too.

    Raises:
        PlanError: tensors that a source lacks, and chromosomes that do not fit; all at once.
    """
    slots = _merged(models)
    problems = [
        f"segments: {name} lacks {len(lacks)} tensors, {lacks[0]} first, and a segment may begin "
        "inside any. Drop this source."
        for name in models.sources
        if (lacks := [slot.name for slot in slots if name not in slot.inputs])
    ]
    if task_vectors and (lacks := [slot.name for slot in slots if slot.base is None]):
        problems.append(
            f"segments: the base lacks {len(lacks)} tensors, {lacks[0]} first, so that they have "
            "no task vectors. Set space: weights."
        )
    try:
        places = {slot.name: slot.place for slot in slots}
        sizes = {slot.name: math.prod(slot.shape) for slot in slots}
        layout = lay_out(places, sizes, chromosomes)
    except RecipeError as error:
        raise PlanError([*problems, *error.problems]) from None
    if problems:
        raise PlanError(problems)
    return layout


class PrefixGrams:
    """Inner products of the sources over the first elements of the layout.

    Those at the starts of tensors are made in one pass over all sources, at the first question.
    The same question has the same answer, to the bit, in every process: a run that goes on makes
    them anew and needs none on record.

    Args:
        models: the sources, and the base.
        task_vectors: of the task vectors rather than of the weights.
    """

    def __init__(self, models: Models, layout: Layout, *, task_vectors: bool = False) -> None:
        self._models, self._layout, self._task_vectors = models, layout, task_vectors
        self._slots = {slot.name: slot for slot in _merged(models)}
        self._known: dict[int, Floats] = {}

    def at(self, positions: Sequence[int]) -> Floats:
        """(n, K, K) float64.

        Args:
            positions: (n,) elements of the layout, the end included.
        """
        if not self._known:
            self._measure_all()
        for position in positions:
            if position not in self._known:
                index = bisect_right(self._layout.starts, position) - 1
                start = self._layout.starts[index]
                inside = self._of_tensor(index, position - start)
                self._known[position] = self._known[start] + inside
        return np.stack([self._known[position] for position in positions])

    def _measure_all(self) -> None:
        starts = self._layout.starts
        count = len(self._models.sources)
        total = np.zeros((count, count))
        for index, start in enumerate(starts[:-1]):
            self._known[start] = total
            total = total + self._of_tensor(index, starts[index + 1] - start)
        self._known[starts[-1]] = total

    def _of_tensor(self, index: int, stop: int) -> Floats:
        """(K, K) of the first elements of one tensor."""
        slot, models = self._slots[self._layout.names[index]], self._models
        stack = Stack(
            [models.input(slot, source) for source in models.sources],
            models.base_input(slot) if self._task_vectors else None,
            deltas=self._task_vectors,
            name=slot.name,
        )
        found: Floats = prefix_grams(stack, [stop])[0].numpy()
        return found


def _merged(models: Models) -> list[Slot]:
    return [slot for slot in models.slots if slot.floating and slot.merged]
