"""Genes that choose the slots of a path, and their order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from evomerge.spaces._path_slots import Genes, PathSlot, PathSlots
from evomerge.types import Gene, Parameter

# Nearly three of the standard deviations with which a search starts, 0.12 of [-1, 1].
_STEPS_IN = 2 / 3


class Indicators(ABC):
    """Decodes genes into the set of slots that are in a path.

    Args:
        slots: all of them.
        kept: those that are always in, without a gene; the ends are among them.
        absent: for thresholds, the initial gene of slots that start outside the path.
        overlap: of runs, the share of the leading model's blocks that are in both of its first two
            runs when the search starts; 0 to start from the model itself.
    """

    def __init__(
        self, slots: PathSlots, kept: frozenset[PathSlot], absent: float, overlap: float
    ) -> None:
        self.slots, self.kept = slots, kept
        self.absent, self.overlap = absent, overlap
        self.free = [slot for slot in slots.between if slot not in kept]

    @property
    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """The genes."""

    @abstractmethod
    def _includes(self, genes: Genes, slot: PathSlot) -> bool:
        """Whether a slot that has genes is in the path."""

    def genes(self, path: Sequence[PathSlot]) -> dict[str, Gene]:
        """Genes by which the slots of a path are in, and others are not."""
        return {}

    def path(self, genes: Genes) -> tuple[PathSlot, ...]:
        """The path of a genome, its ends included."""
        return tuple(s for s in self.slots.all if s in self.kept or self._includes(genes, s))

    def preference(self, genes: Genes) -> Mapping[PathSlot, float]:
        """Slot to how much it is preferred, where a limit removes some."""
        return {}

    def _starts_in(self, slot: PathSlot) -> bool:
        leading = self.slots.first.model
        own = slot.repetition == 0 and slot.model == leading
        return own and slot.layer < self.slots.layers[leading] - 1


class Bits(Indicators):
    """A flag for each slot. Where a path is too long, its last slots go."""

    @property
    def parameters(self) -> list[Parameter]:
        return [Parameter(f"in.{s.name}", "bool", self._starts_in(s)) for s in self.free]

    def genes(self, path: Sequence[PathSlot]) -> dict[str, Gene]:
        return {f"in.{slot.name}": slot in path for slot in self.free}

    def _includes(self, genes: Genes, slot: PathSlot) -> bool:
        return bool(genes[f"in.{slot.name}"])


class Thresholds(Indicators):
    """A number in [-1, 1] for each slot, which is in where it is positive; the lowest go first.

    Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2.
    """

    @property
    def parameters(self) -> list[Parameter]:
        starts = {slot: _STEPS_IN if self._starts_in(slot) else self.absent for slot in self.free}
        return [
            Parameter(f"in.{s.name}", "float", at, low=-1.0, high=1.0) for s, at in starts.items()
        ]

    def genes(self, path: Sequence[PathSlot]) -> dict[str, Gene]:
        return {f"in.{s.name}": _STEPS_IN if s in path else self.absent for s in self.free}

    def _includes(self, genes: Genes, slot: PathSlot) -> bool:
        return float(genes[f"in.{slot.name}"]) > 0

    def preference(self, genes: Genes) -> Mapping[PathSlot, float]:
        return {slot: float(genes[f"in.{slot.name}"]) for slot in self.free}


class Everything(Indicators):
    """Every slot is in, without genes."""

    @property
    def parameters(self) -> list[Parameter]:
        return []

    def _includes(self, genes: Genes, slot: PathSlot) -> bool:
        return True


class Runs(Indicators):
    """One run of consecutive blocks per model and repetition: where it begins and where it ends.

    A run that ends where it begins, or before, is empty. Where a path is too long, its last slots
    go.

    Source: Kim et al. 2024, arXiv:2312.15166 (SOLAR: 32 blocks, two runs that share 16).
    """

    @property
    def parameters(self) -> list[Parameter]:
        runs = dict.fromkeys((slot.repetition, slot.model) for slot in self.slots.all)
        return [
            Parameter(f"{word}.{repetition}.{model}", "int", at, low=0.0, high=float(layers))
            for repetition, model in runs
            for layers in [self.slots.layers[model]]
            for word, at in zip(("from", "to"), self._start(repetition, model), strict=True)
        ]

    def genes(self, path: Sequence[PathSlot]) -> dict[str, Gene]:
        runs: dict[str, list[int]] = {}
        for slot in self.slots.all:
            runs.setdefault(f"{slot.repetition}.{slot.model}", [])
        for slot in path[1:-1]:  # the ends are in every path
            runs[f"{slot.repetition}.{slot.model}"].append(slot.layer)
        genes: dict[str, Gene] = {}
        for run, layers in runs.items():
            genes |= {
                f"from.{run}": min(layers, default=0),
                f"to.{run}": max(layers, default=-1) + 1,
            }
        return genes

    def _start(self, repetition: int, model: str) -> tuple[int, int]:
        """The initial ends of a run: of the whole leading model, or of two runs that overlap."""
        layers = self.slots.layers[model]
        if model == self.slots.first.model and repetition < 2:
            if not self.overlap:
                # the last block is at the end of every path
                return (0, layers - 1) if repetition == 0 else (layers, layers)
            end = -(-(layers + round(self.overlap * layers)) // 2)
            return (0, end) if repetition == 0 else (layers - end, layers)
        return layers // 2, layers // 2

    def _includes(self, genes: Genes, slot: PathSlot) -> bool:
        run = f"{slot.repetition}.{slot.model}"
        return int(genes[f"from.{run}"]) <= slot.layer < int(genes[f"to.{run}"])


KINDS: Mapping[str, type[Indicators]] = {
    "bits": Bits,
    "thresholds": Thresholds,
    "runs": Runs,
    "all": Everything,
}


def order_genes(slots: Sequence[PathSlot]) -> list[Parameter]:
    """A gene for each slot between the ends, by which `sorted_path` sorts them."""
    count = len(slots)
    return [
        Parameter(f"order.{slot.name}", "float", (place + 0.5) / count)
        for place, slot in enumerate(slots)
    ]


def genes_of_order(path: Sequence[PathSlot]) -> dict[str, Gene]:
    """The genes by which `sorted_path` sorts the slots of a path as they are."""
    return {f"order.{s.name}": (n + 0.5) / len(path) for n, s in enumerate(path[1:-1])}


def sorted_path(path: Sequence[PathSlot], genes: Genes) -> tuple[PathSlot, ...]:
    """The path, its slots between the ends sorted by their genes; ties keep their order."""
    first, *between, last = path
    return (first, *sorted(between, key=lambda slot: float(genes[f"order.{slot.name}"])), last)
