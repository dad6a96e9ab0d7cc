"""Where the tensors of open models lie in canonical order, and Gram matrices up to there."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge.errors import PlanError, RecipeError
from evomerge.recipes.layout import Chromosomes, Layout, lay_out
from evomerge.types import PrefixGram
from evomerge.weights.models import Models, Slot

Floats = NDArray[np.float64]

_FIRST = 1024  # positions that there is room for at first


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

    Those at the starts of tensors are made in one pass over all sources, at the first question that
    no loaded one answers; one inside a tensor reads the tensor's first elements. A question has
    the same answer, to the bit, in every process, loaded or measured anew.

    Args:
        models: the sources, and the base.
        task_vectors: of the task vectors rather than of the weights.
    """

    def __init__(self, models: Models, layout: Layout, *, task_vectors: bool = False) -> None:
        self._models, self._layout, self._task_vectors = models, layout, task_vectors
        self._slots = {slot.name: slot for slot in _merged(models)}
        # those known, ascending, and where their products stand; the last is beyond any
        self._positions = np.array([np.iinfo(np.int64).max])
        self._places = np.array([-1])
        count = len(models.sources)
        self._products = np.empty((_FIRST, count, count))  # twice as long whenever it is full
        self._fresh: list[int] = []  # positions that nobody has on record

    @cached_property
    def digest(self) -> str:
        """Of all that the answers depend on: weights, alignment, order of sources and tensors."""
        models = self._models
        prints = [[name, models.sources[name].fingerprint] for name in models.sources]
        base = models.base.fingerprint if self._task_vectors else None
        alignment = repr(models.composition.tokenizer)
        of = [prints, base, alignment, self._layout.names, self._layout.starts]
        return hashlib.sha256(json.dumps(of).encode()).hexdigest()

    def load(self, measured: Iterable[PrefixGram]) -> None:
        """Take those that are of these models; of others, and what is known already, none."""
        shape = self._products.shape[1:]
        self._keep(
            {
                position: np.array(products).reshape(shape)
                for of, position, products in measured
                if of == self.digest and not self._knows(position)
            }
        )

    def take_new(self) -> list[PrefixGram]:
        """Those measured since the last call."""
        positions, self._fresh = self._fresh, []
        return [
            PrefixGram(self.digest, position, tuple(products.reshape(-1).tolist()))
            for position, products in zip(positions, self.at(positions), strict=True)
        ]

    def at(self, positions: ArrayLike) -> Floats:
        """(n, K, K) float64.

        Args:
            positions: (n,) elements of the layout, the end included.
        """
        asked = np.asarray(positions, np.int64)
        for position in np.unique(asked[~self._knows(asked)]).tolist():
            self._measure(position)
        found: Floats = self._products[self._places[self._positions.searchsorted(asked)]]
        return found

    def _knows(self, positions: ArrayLike) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (
            self._positions[self._positions.searchsorted(positions)] == positions
        )
        return found

    def _measure(self, position: int) -> None:
        index = bisect_right(self._layout.starts, position) - 1
        start = self._layout.starts[index]
        if not self._knows(start):
            self._measure_starts()
        if position != start:
            self._add(position, self.at([start])[0] + self._of_tensor(index, position - start))

    def _measure_starts(self) -> None:
        starts = self._layout.starts
        count = len(self._models.sources)
        total = np.zeros((count, count))
        self._add(0, total)
        for index, (start, stop) in enumerate(pairwise(starts)):
            total = total + self._of_tensor(index, stop - start)
            self._add(stop, total)

    def _add(self, position: int, products: Floats) -> None:
        """One that was measured, and may be known already."""
        if not self._knows(position):
            self._fresh.append(position)
            self._keep({position: products})

    def _keep(self, products: Mapping[int, Floats]) -> None:
        """Know those of positions that are not known yet."""
        positions = np.array(sorted(products), np.int64)
        first = len(self._places) - 1
        last = first + len(positions)
        while last > len(self._products):
            self._products = np.concatenate([self._products, np.empty_like(self._products)])
        for place, position in enumerate(positions.tolist(), first):
            self._products[place] = products[position]
        indices = self._positions.searchsorted(positions)
        self._positions = np.insert(self._positions, indices, positions)
        self._places = np.insert(self._places, indices, np.arange(first, last))

    def _of_tensor(self, index: int, stop: int) -> Floats:
        """(K, K) of the first elements of one tensor."""
        from evomerge.kernels.measures import prefix_gram
        from evomerge.kernels.stack import Stack  # which import torch

        slot, models = self._slots[self._layout.names[index]], self._models
        stack = Stack(
            [models.input(slot, source) for source in models.sources],
            models.base_input(slot) if self._task_vectors else None,
            deltas=self._task_vectors,
            name=slot.name,
        )
        found: Floats = prefix_gram(stack, stop).numpy()
        return found


def _merged(models: Models) -> list[Slot]:
    return [slot for slot in models.slots if slot.floating and slot.merged]
