"""Genes that choose the slots of a path, and their order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from evomerge.spaces._path_slots import Genes, PathSlot, PathSlots
from evomerge.types import Parameter

_STEPS_IN = 2 / 3  # two of the standard deviations with which a search starts, of 1/6 of [-1, 1]


class Chosen(NamedTuple):
    """The slots of a path, and how much each is preferred where a limit makes some go."""

    path: tuple[PathSlot, ...]
    preference: Mapping[PathSlot, float]


class Indicators(ABC):
    """Which slots between the ends are in a path.

    Args:
        slots: all of them.
        kept: those that are always in, without a gene.
    """

    def __init__(self, slots: PathSlots, kept: frozenset[PathSlot]) -> None:
        self.slots, self.kept = slots, kept
        self.free = [slot for slot in slots.between if slot not in kept]

    @property
    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """The genes."""

    @abstractmethod
    def chosen(self, genes: Genes) -> Chosen:
        """The path of a genome, its ends included."""

    def _path(self, included: set[PathSlot]) -> tuple[PathSlot, ...]:
        return tuple(s for s in self.slots.all if s in included or s in self.kept)

    def _starts_in(self, slot: PathSlot) -> bool:
        leading = self.slots.first.model
        own = slot.repetition == 0 and slot.model == leading
        return own and slot.layer < self.slots.layers[leading] - 1


class Bits(Indicators):
    """A flag for each slot. Where a path is too long, its last slots go."""

    @property
    def parameters(self) -> list[Parameter]:
        """See `Indicators`."""
        return [Parameter(f"in.{s.name}", "bool", self._starts_in(s)) for s in self.free]

    def chosen(self, genes: Genes) -> Chosen:
        """See `Indicators`."""
        return Chosen(self._path({s for s in self.free if genes[f"in.{s.name}"]}), {})


class Thresholds(Indicators):
    """A number in [-1, 1] for each slot, which is in where it is positive; the lowest go first.

    Args:
        absent: where the genes of slots that are out start.

    Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2.
    """

    def __init__(self, slots: PathSlots, kept: frozenset[PathSlot], absent: float) -> None:
        super().__init__(slots, kept)
        self.absent = absent

    @property
    def parameters(self) -> list[Parameter]:
        """See `Indicators`."""
        starts = {slot: _STEPS_IN if self._starts_in(slot) else self.absent for slot in self.free}
        return [
            Parameter(f"in.{s.name}", "float", at, low=-1.0, high=1.0) for s, at in starts.items()
        ]

    def chosen(self, genes: Genes) -> Chosen:
        """See `Indicators`."""
        preference = {slot: float(genes[f"in.{slot.name}"]) for slot in self.free}
        chosen = {slot for slot, value in preference.items() if value > 0}
        return Chosen(self._path(chosen), preference)


class Everything(Indicators):
    """Every slot is in, without genes."""

    @property
    def parameters(self) -> list[Parameter]:
        """See `Indicators`."""
        return []

    def chosen(self, genes: Genes) -> Chosen:
        """See `Indicators`."""
        return Chosen(self.slots.all, {})


class Runs(Indicators):
    """One run of consecutive blocks per model and repetition: where it begins and where it ends.

    A run that ends where it begins, or before, is empty. Where a path is too long, its last slots
    go.

    Args:
        overlap: the share of the leading model's blocks that are in both of its first two runs when
            the search starts; 0 to start from the model itself.

    Source: Kim et al. 2024, arXiv:2312.15166 (SOLAR: 32 blocks, two runs that share 16).
    """

    def __init__(self, slots: PathSlots, kept: frozenset[PathSlot], overlap: float) -> None:
        super().__init__(slots, kept)
        self.overlap = overlap
        self.runs = list(dict.fromkeys((s.repetition, s.model) for s in self.slots.all))

    @property
    def parameters(self) -> list[Parameter]:
        """See `Indicators`."""
        genes = []
        for repetition, model in self.runs:
            layers = self.slots.layers[model]
            start, end = self._start(repetition, model)
            for word, at in (("from", start), ("to", end)):
                genes.append(
                    Parameter(
                        f"{word}.{repetition}.{model}", "int", at, low=0.0, high=float(layers)
                    )
                )
        return genes

    def _start(self, repetition: int, model: str) -> tuple[int, int]:
        """Where a run begins and ends at first: those of the leading model, or two that overlap."""
        layers = self.slots.layers[model]
        if model == self.slots.first.model and repetition < 2:
            if not self.overlap:
                # the last block is at the end of every path
                return (0, layers - 1) if repetition == 0 else (layers, layers)
            end = -(-(layers + round(self.overlap * layers)) // 2)
            return (0, end) if repetition == 0 else (layers - end, layers)
        return layers // 2, layers // 2

    def chosen(self, genes: Genes) -> Chosen:
        """See `Indicators`."""
        included = {
            slot
            for slot in self.free
            if int(genes[f"from.{slot.repetition}.{slot.model}"])
            <= slot.layer
            < int(genes[f"to.{slot.repetition}.{slot.model}"])
        }
        return Chosen(self._path(included), {})


def make_indicators(
    kind: Literal["bits", "thresholds", "runs", "all"],
    slots: PathSlots,
    kept: frozenset[PathSlot],
    *,
    absent: float,
    overlap: float,
) -> Indicators:
    """The indicators of that kind; ``absent`` is for thresholds, ``overlap`` for runs."""
    match kind:
        case "bits":
            return Bits(slots, kept)
        case "thresholds":
            return Thresholds(slots, kept, absent)
        case "runs":
            return Runs(slots, kept, overlap)
        case "all":
            return Everything(slots, kept)


def order_genes(slots: Sequence[PathSlot]) -> list[Parameter]:
    """A gene for each slot between the ends, by which `sorted_path` sorts them."""
    count = len(slots)
    return [
        Parameter(f"order.{slot.name}", "float", (place + 0.5) / count)
        for place, slot in enumerate(slots)
    ]


def sorted_path(path: Sequence[PathSlot], genes: Genes) -> tuple[PathSlot, ...]:
    """The path with what is between its ends sorted by their genes; equals keep their order."""
    first, *between, last = path
    return (first, *sorted(between, key=lambda slot: float(genes[f"order.{slot.name}"])), last)
