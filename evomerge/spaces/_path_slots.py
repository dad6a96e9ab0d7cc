"""Slots, of which a path through several models is made, and limits on its size and order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Block = tuple[str, int]  # a model, and the number of one of its blocks
Genes = Mapping[str, Any]


class PathSlot(NamedTuple):
    """A place in a path, for one block of one model.

    Attributes:
        number: position among all slots.
        repetition: how many times all models have come before.
        model: whose block.
        layer: which of its blocks.
    """

    number: int
    repetition: int
    model: str
    layer: int

    @property
    def block(self) -> Block:
        return self.model, self.layer

    @property
    def name(self) -> str:
        """The slot's part of its genes' names, e.g. ``0.math.12``."""
        return f"{self.repetition}.{self.model}.{self.layer}"


@dataclass(frozen=True, slots=True)
class PathSlots:
    """All slots in order: the blocks of every model, once for each repetition.

    The leading model's first block comes first; its last block, of the last repetition, comes
    last. Both are in every path.

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
        """The slots over some models.

        Args:
            layers: model to its number of blocks, the leading one first, with at least two.
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
        """(T,) all slots in order, both ends included."""
        return (self.first, *self.between, self.last)

    @property
    def blocks(self) -> list[Block]:
        """(M,) every block of every model, in order."""
        return [(model, layer) for model, count in self.layers.items() for layer in range(count)]

    def along(self, blocks: Sequence[Block], *, in_order: bool) -> tuple[PathSlot, ...]:
        """The slots of a path through blocks, each the first that is possible; () if there is none.

        Args:
            in_order: whether a path goes through its slots in their order.
        """
        if len(blocks) < 2 or (blocks[0], blocks[-1]) != (self.first.block, self.last.block):
            return ()
        path: list[PathSlot] = []
        left = list(self.between)
        for block in blocks[1:-1]:
            place = next((n for n, slot in enumerate(left) if slot.block == block), None)
            if place is None:
                return ()
            path.append(left[place])
            left = left[place + 1 :] if in_order else left[:place] + left[place + 1 :]
        return (self.first, *path, self.last)

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
    """How large a path may be, and in which order blocks may come.

    Attributes:
        layers: the most blocks; None for any number.
        parameters: the most weights; None for any number.
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
        """Weights of the model that a path makes."""
        return self.around + sum(self.sizes.get(slot.block, 0) for slot in path)

    def repaired(
        self,
        path: Sequence[PathSlot],
        *,
        kept: frozenset[PathSlot],
        preference: Mapping[PathSlot, float],
    ) -> tuple[PathSlot, ...]:
        """The path without the blocks that break a limit; deterministic.

        Blocks that step back behind an earlier one of their model go first. Then as many others as
        must go: those that are preferred least, of equals the last in the path.

        Args:
            kept: never dropped; together they fit.
            preference: slot to how much it is preferred; 0 for the others.
        """
        slots = self._forward(path, kept) if self.monotone else list(path)
        order = sorted(
            (place for place, slot in enumerate(slots) if slot not in kept),
            key=lambda place: (preference.get(slots[place], 0.0), -place),
        )
        length, weights = len(slots), self.weights(slots)
        dropped = set()
        for place in order:
            short = self.layers is None or length <= self.layers
            if short and (self.parameters is None or weights <= self.parameters):
                break
            dropped.add(place)
            length -= 1
            weights -= self.sizes.get(slots[place].block, 0)
        return tuple(slot for place, slot in enumerate(slots) if place not in dropped)

    @staticmethod
    def _forward(path: Sequence[PathSlot], kept: frozenset[PathSlot]) -> list[PathSlot]:
        """The path without slots that step back, or that a kept slot would step back behind."""
        bound: dict[int, int] = {}  # place to the least number of a kept block still to come
        least: dict[str, int] = {}
        for place in range(len(path) - 1, -1, -1):
            slot = path[place]
            bound[place] = least.get(slot.model, slot.layer)
            if slot in kept:
                least[slot.model] = min(slot.layer, bound[place])
        reached: dict[str, int] = {}
        forward = []
        for place, slot in enumerate(path):
            if slot in kept or reached.get(slot.model, 0) <= slot.layer <= bound[place]:
                forward.append(slot)
                reached[slot.model] = max(slot.layer, reached.get(slot.model, 0))
        return forward
