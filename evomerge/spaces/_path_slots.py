"""Slots, of which a path through several models is made, and limits on its size and order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Block = tuple[str, int]  # a model, and the number of one of its blocks


class PathSlot(NamedTuple):
    """A place in a path that one block may take.

    Attributes:
        number: position among all slots.
        repetition: how often the models have come before.
        model: whose block.
        layer: which of its blocks.
    """

    number: int
    repetition: int
    model: str
    layer: int

    @property
    def block(self) -> Block:
        """Which of all blocks."""
        return self.model, self.layer

    @property
    def name(self) -> str:
        """Of its genes."""
        return f"{self.repetition}.{self.model}.{self.layer}"


@dataclass(frozen=True, slots=True)
class PathSlots:
    """All slots in order: the blocks of every model, that as often as there are repetitions.

    The leading model's first block is first. Its last block, of the last repetition, comes after
    all others. Both are in every path.

    Attributes:
        layers: every model's number of blocks, the leading one first.
        first, last: those of the leading model.
        between: (T - 2,) all others.
    """

    layers: Mapping[str, int]
    first: PathSlot
    between: tuple[PathSlot, ...]
    last: PathSlot

    @classmethod
    def of(cls, layers: Mapping[str, int], repetitions: int) -> PathSlots:
        """The slots of models.

        Args:
            layers: of every model, the leading one first; at least two of that.
        """
        names = [
            (repetition, model, layer)
            for repetition in range(repetitions)
            for model, count in layers.items()
            for layer in range(count)
        ]
        leading = next(iter(layers))
        end = names.index((repetitions - 1, leading, layers[leading] - 1))
        names.append(names.pop(end))
        first, *between, last = (PathSlot(number, *name) for number, name in enumerate(names))
        return cls(layers, first, tuple(between), last)

    @property
    def all(self) -> tuple[PathSlot, ...]:
        """(T,) in order."""
        return (self.first, *self.between, self.last)

    @property
    def blocks(self) -> list[Block]:
        """(M,) every block of every model, in order."""
        return [(model, layer) for model, count in self.layers.items() for layer in range(count)]

    def kept(self, keep: Mapping[str, Collection[int] | Literal["all"]]) -> frozenset[PathSlot]:
        """The slots that are in every path: the ends, and the first slot of each block to keep.

        Args:
            keep: model to the numbers of its blocks.
        """
        ends = {slot.block: slot for slot in (self.first, self.last)}
        kept = set(ends.values())
        for model, blocks in keep.items():
            first = {s.layer: s for s in reversed(self.between) if s.model == model}
            kept |= {
                ends.get((model, layer)) or first[layer]
                for layer in range(self.layers[model])
                if blocks == "all" or layer in blocks
            }
        return frozenset(kept)


@dataclass(frozen=True, slots=True)
class PathLimits:
    """How large a path may be, and in which order its blocks may come.

    Attributes:
        layers: at most so many blocks; None for any number.
        parameters: at most so many weights; None for any number.
        monotone: the blocks of one model never step back along a path.
        sizes: model and block to the number of its weights.
        around: weights of the leading model outside its blocks.
    """

    layers: int | None
    parameters: int | None
    monotone: bool
    sizes: Mapping[Block, int]
    around: int

    def weights(self, path: Sequence[PathSlot]) -> int:
        """Of the model that a path makes."""
        return self.around + sum(self.sizes.get(slot.block, 0) for slot in path)

    def fits(self, path: Sequence[PathSlot]) -> bool:
        """Whether it is small enough."""
        short = self.layers is None or len(path) <= self.layers
        return short and (self.parameters is None or self.weights(path) <= self.parameters)

    def repaired(
        self,
        path: Sequence[PathSlot],
        *,
        kept: frozenset[PathSlot],
        preference: Mapping[PathSlot, float],
    ) -> tuple[PathSlot, ...]:
        """The path without the blocks that break a limit; the same path always gives the same.

        Blocks that step back behind an earlier one of their model go first. Of the others, as many
        as must go: those that are preferred least, of equals the last in the path.

        Args:
            kept: never dropped; together they fit.
            preference: of each slot; 0 where it is not said.
        """
        found = self._forward(path, kept) if self.monotone else list(path)
        order = sorted(
            (place for place, slot in enumerate(found) if slot not in kept),
            key=lambda place: (preference.get(found[place], 0.0), -place),
        )
        length, weights = len(found), self.weights(found)
        dropped = set()
        for place in order:
            short = self.layers is None or length <= self.layers
            if short and (self.parameters is None or weights <= self.parameters):
                break
            dropped.add(place)
            length -= 1
            weights -= self.sizes.get(found[place].block, 0)
        return tuple(slot for place, slot in enumerate(found) if place not in dropped)

    @staticmethod
    def _forward(path: Sequence[PathSlot], kept: frozenset[PathSlot]) -> list[PathSlot]:
        """Without those behind an earlier block of their model, or before a kept one that is."""
        bound: dict[int, int] = {}  # place to the least number of a kept block still to come
        least: dict[str, int] = {}
        for place in range(len(path) - 1, -1, -1):
            slot = path[place]
            bound[place] = least.get(slot.model, slot.layer)
            if slot in kept:
                least[slot.model] = min(slot.layer, bound[place])
        reached: dict[str, int] = {}
        found = []
        for place, slot in enumerate(path):
            if slot in kept or reached.get(slot.model, 0) <= slot.layer <= bound[place]:
                found.append(slot)
                reached[slot.model] = max(slot.layer, reached.get(slot.model, 0))
        return found
