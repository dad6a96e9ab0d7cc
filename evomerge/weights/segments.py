"""The merged tensors of open models as one row of elements, and Gram matrices of its prefixes."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evomerge.errors import PlanError, RecipeError
from evomerge.recipes.layout import Chromosomes, Layout, lay_out
from evomerge.types import PrefixGram
from evomerge.weights.models import Models
from evomerge.weights.slots import Slot

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Stack

Floats = NDArray[np.float64]

_CAPACITY = 1024  # positions, at first


def layout_of(models: Models, chromosomes: Chromosomes, *, task_vectors: bool = False) -> Layout:
    """The merged tensors of some models laid end to end.

    Args:
        task_vectors: whether the base must have every tensor as well.

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


def flat_sources(
    models: Models, layout: Layout, *, task_vectors: bool = False
) -> dict[str, Tensor]:
    """Source to its (N,) elements, float32.

    Args:
        task_vectors: elements of source minus base.
    """
    from torch import cat

    slots = {slot.name: slot for slot in _merged(models)}
    parts: dict[str, list[Tensor]] = {name: [] for name in models.sources}
    for name in layout.names:
        whole = _stack(models, slots[name], task_vectors=task_vectors).whole()
        for source, values in zip(models.sources, whole, strict=True):
            parts[source].append(values.reshape(-1))
    return {name: cat(of_source) for name, of_source in parts.items()}


class PrefixGrams:
    """Inner products of the sources over the first elements of the layout, measured once.

    Products up to the starts of tensors are measured in one pass over all sources, as soon as one
    that was not loaded is needed; one inside a tensor reads the tensor up to there. An answer is
    the same, to the bit, in every process, whether it was loaded or measured.

    Args:
        task_vectors: measure task vectors rather than weights.
    """

    def __init__(self, models: Models, layout: Layout, *, task_vectors: bool = False) -> None:
        self._models, self._layout, self._task_vectors = models, layout, task_vectors
        self._slots = {slot.name: slot for slot in _merged(models)}
        # the known positions, ascending, and their rows in `_products`; the last is a sentinel
        self._positions = np.array([np.iinfo(np.int64).max])
        self._rows = np.array([-1])
        count = len(models.sources)
        self._products = np.empty((_CAPACITY, count, count))  # twice as long whenever it is full
        self._new: list[int] = []  # positions that `take_new` has not given out

    @cached_property
    def digest(self) -> str:
        """A digest of all that answers depend on: weights, alignment, order of sources, tensors."""
        models = self._models
        prints = [[name, models.sources[name].fingerprint] for name in models.sources]
        base = models.base.fingerprint if self._task_vectors else None
        alignment = repr(models.composition.tokenizer)
        of = [prints, base, alignment, self._layout.names, self._layout.starts]
        return hashlib.sha256(json.dumps(of).encode()).hexdigest()

    def load(self, measured: Iterable[PrefixGram]) -> None:
        """Take over earlier measurements; those of other models are left out."""
        shape = self._products.shape[1:]
        self._keep(
            {
                position: np.array(products).reshape(shape)
                for of, position, products in measured
                if of == self.digest and not self._knows(position)
            }
        )

    def take_new(self) -> list[PrefixGram]:
        """Inner products measured since the last call."""
        positions, self._new = self._new, []
        return [
            PrefixGram(self.digest, position, tuple(products.reshape(-1).tolist()))
            for position, products in zip(positions, self.at(positions), strict=True)
        ]

    def at(self, positions: ArrayLike) -> Floats:
        """(n, K, K) float64 inner products of the K sources.

        Args:
            positions: (n,) how many elements each counts, from 0 to the layout's size.
        """
        asked = np.asarray(positions, np.int64)
        for position in np.unique(asked[~self._knows(asked)]).tolist():
            self._measure(position)
        products: Floats = self._products[self._rows[self._positions.searchsorted(asked)]]
        return products

    def _knows(self, positions: ArrayLike) -> NDArray[np.bool_]:
        nearest = self._positions[self._positions.searchsorted(positions)]
        known: NDArray[np.bool_] = nearest == positions
        return known

    def _measure(self, position: int) -> None:
        index = bisect_right(self._layout.starts, position) - 1
        start = self._layout.starts[index]
        if not self._knows(start):
            total = np.zeros(self._products.shape[1:])
            self._add(0, total)
            for number, (first, stop) in enumerate(pairwise(self._layout.starts)):
                total = total + self._of_tensor(number, stop - first)
                self._add(stop, total)
        if position != start:
            self._add(position, self.at([start])[0] + self._of_tensor(index, position - start))

    def _add(self, position: int, products: Floats) -> None:
        """Record measured inner products, unless they are known."""
        if not self._knows(position):
            self._new.append(position)
            self._keep({position: products})

    def _keep(self, products: Mapping[int, Floats]) -> None:
        """Store products at positions that are not known yet, in ascending order."""
        positions = np.array(sorted(products), np.int64)
        first = len(self._rows) - 1
        last = first + len(positions)
        while last > len(self._products):
            self._products = np.concatenate([self._products, np.empty_like(self._products)])
        for row, position in enumerate(positions.tolist(), first):
            self._products[row] = products[position]
        indices = self._positions.searchsorted(positions)
        self._positions = np.insert(self._positions, indices, positions)
        self._rows = np.insert(self._rows, indices, np.arange(first, last))

    def _of_tensor(self, index: int, stop: int) -> Floats:
        """(K, K) of the first elements of one tensor."""
        from evomerge.kernels.measures import prefix_gram  # which imports torch

        slot = self._slots[self._layout.names[index]]
        stack = _stack(self._models, slot, task_vectors=self._task_vectors)
        products: Floats = prefix_gram(stack, stop).numpy()
        return products


def _stack(models: Models, slot: Slot, *, task_vectors: bool) -> Stack:
    from evomerge.kernels.stack import Stack  # which imports torch

    return Stack(
        [models.input(slot, source) for source in models.sources],
        models.base_input(slot) if task_vectors else None,
        deltas=task_vectors,
        name=slot.name,
    )


def _merged(models: Models) -> list[Slot]:
    return [slot for slot in models.slots if slot.floating and slot.merged]
