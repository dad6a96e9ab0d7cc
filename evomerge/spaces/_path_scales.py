"""Genes for the scales of a path: what the residual stream is multiplied by between its blocks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator

from evomerge.errors import Problem, shown
from evomerge.keys import Keys
from evomerge.recipes import SCALE_SPAN
from evomerge.spaces._path_slots import Genes, PathSlot, PathSlots
from evomerge.types import Gene, Parameter

ScaleKind = Literal["none", "hop", "matrix", "network"]
_LEAST, _MOST = 1e-2, 1e2


class Scaling(Keys):
    """Which scales a path may have on its hops from one block to the next.

    Attributes:
        kind: ``none``; ``hop``, a gene for each slot, on the way into it; ``matrix``, a gene for
            each pair of blocks; ``network``, the weights of a small network whose inputs are both
            blocks and the slot.
        low, high: bounds of a scale's magnitude, away from zero.
        initial: where the search starts.
        negative: let genes run from -high to high; those closer to zero than low stand for a
            magnitude of low.
        hidden: units of the network.
    """

    kind: ScaleKind = "hop"
    low: float = Field(default=0.7, ge=_LEAST, le=_MOST)
    high: float = Field(default=1.4, ge=_LEAST, le=_MOST)
    initial: float = 1.0
    negative: bool = False
    hidden: int = Field(default=4, ge=1, le=64)

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, Mapping | Scaling):
            raise ValueError(
                f"expected {', '.join(get_args(ScaleKind))}, or the keys "
                f"{', '.join(cls.model_fields)}, got {shown(value)}. "
                "The scales themselves are what the search finds."
            )
        return value

    def problems(self) -> list[Problem]:
        """What is wrong with low, high and initial."""
        if self.low > self.high:
            text = f"low {self.low:g} lies above high {self.high:g}."
            return [Problem(("scales",), text, "Lower low, or raise high.")]
        magnitude = abs(self.initial) if self.negative else self.initial
        if not self.low <= magnitude <= self.high:
            text = f"{self.initial:g} lies outside [{self.low:g}, {self.high:g}]."
            cure = "Choose one inside, or other low and high."
            return [Problem(("scales", "initial"), text, cure)]
        return []

    def parameter(self, name: str) -> Parameter:
        """The gene of one scale."""
        if self.negative:
            return Parameter(name, "float", self.initial, low=-self.high, high=self.high)
        return Parameter(name, "float", self.initial, low=self.low, high=self.high, scale="log")

    def gene(self, scale: float) -> float:
        """The gene that stands for a scale, or for the nearest one."""
        low = -self.high if self.negative else self.low
        return min(max(scale, low), self.high)

    def value(self, gene: float) -> float:
        """The scale that a gene stands for."""
        low = math.copysign(self.low, gene)
        return low if abs(gene) < self.low else min(max(gene, -self.high), self.high)


class PathScales(ABC):
    """What the residual stream is multiplied by between the blocks of a path.

    Args:
        slots: all slots.
    """

    def __init__(self, scaling: Scaling, slots: PathSlots) -> None:
        self.scaling, self.slots = scaling, slots

    @property
    @abstractmethod
    def parameters(self) -> list[Parameter]:
        """The genes."""

    @abstractmethod
    def _scale(self, genes: Genes, before: PathSlot, slot: PathSlot) -> float:
        """What the stream is multiplied by on the way from one slot of a path to the next."""

    def scales(self, genes: Genes, path: Sequence[PathSlot]) -> tuple[float, ...]:
        """(depth,) the scale on the hop into each block; 1 for the first block, which has no hop.

        Where the product of all scales so far would be more than weights can absorb, a scale is
        1 or -1 instead, so that every genome gives a valid recipe.
        """
        scales, product = [1.0], 1.0
        for before, slot in pairwise(path):
            scale = self._scale(genes, before, slot)
            if not 1 / SCALE_SPAN <= abs(product * scale) <= SCALE_SPAN:
                scale = math.copysign(1.0, scale)
            product *= scale
            scales.append(scale)
        return tuple(scales)

    def genes(self, path: Sequence[PathSlot], scales: Sequence[float]) -> dict[str, Gene]:
        """Genes that give the scales on the hops of a path, as far as there are some."""
        return {}

    def example(self, depth: int) -> tuple[float, ...]:
        """Scales for a check that the models take any: not all 1, unless all must be."""
        last = self.scaling.low if self.scaling.high == 1 else self.scaling.high
        return (*(1.0,) * (depth - 1), last)


class NoScales(PathScales):
    """Every scale is 1: the paper's ablation."""

    @property
    def parameters(self) -> list[Parameter]:
        return []

    def example(self, depth: int) -> tuple[float, ...]:
        return ()

    def _scale(self, genes: Genes, before: PathSlot, slot: PathSlot) -> float:
        return 1.0


class OnePerSlot(PathScales):
    """One scale for each slot, on the hop into it, whichever slot comes before."""

    @property
    def parameters(self) -> list[Parameter]:
        return [self.scaling.parameter(f"scale.{slot.name}") for slot in self.slots.all[1:]]

    def genes(self, path: Sequence[PathSlot], scales: Sequence[float]) -> dict[str, Gene]:
        hops = zip(path[1:], scales[1:], strict=True)
        return {f"scale.{slot.name}": self.scaling.gene(scale) for slot, scale in hops}

    def _scale(self, genes: Genes, before: PathSlot, slot: PathSlot) -> float:
        return self.scaling.value(float(genes[f"scale.{slot.name}"]))


class OnePerPair(PathScales):
    """A scale W_ij for each pair of blocks i and j, whatever their slots.

    Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2.
    """

    @property
    def parameters(self) -> list[Parameter]:
        labels = [f"{model}.{layer}" for model, layer in self.slots.blocks]
        return [self.scaling.parameter(f"scale.{i}.{j}") for i in labels for j in labels]

    def genes(self, path: Sequence[PathSlot], scales: Sequence[float]) -> dict[str, Gene]:
        hops = zip(pairwise(path), scales[1:], strict=True)
        return {self._label(*pair): self.scaling.gene(scale) for pair, scale in hops}

    @staticmethod
    def _label(before: PathSlot, slot: PathSlot) -> str:
        return f"scale.{before.model}.{before.layer}.{slot.model}.{slot.layer}"

    def _scale(self, genes: Genes, before: PathSlot, slot: PathSlot) -> float:
        return self.scaling.value(float(genes[self._label(before, slot)]))


class ScaleNetwork(PathScales):
    """W_ij = pi_theta(i, j, t): a network of one hidden layer, whose weights theta are the genes.

    Its inputs are the numbers of the two blocks and of the slot, each scaled to [-1, 1], and 1. The
    hidden units are hyperbolic tangents. A logistic function takes the output to between low (or
    -high) and high, and 0 to `initial`: the search starts there, from hidden weights drawn with a
    fixed seed.

    Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2, which does not describe the network.
    """

    _INPUTS = ("from", "to", "slot", "one")

    def __init__(self, scaling: Scaling, slots: PathSlots) -> None:
        super().__init__(scaling, slots)
        self._numbers = {block: number for number, block in enumerate(slots.blocks)}

    @property
    def parameters(self) -> list[Parameter]:
        hidden = range(self.scaling.hidden)
        generator = np.random.default_rng(0)
        starts = generator.uniform(-2, 2, (self.scaling.hidden, len(self._INPUTS)))
        inner = [
            Parameter(
                f"theta.{unit}.{word}", "float", float(starts[unit, column]), low=-4.0, high=4.0
            )
            for unit in hidden
            for column, word in enumerate(self._INPUTS)
        ]
        return [
            *inner,
            *(Parameter(f"theta.{u}.out", "float", 0.0, low=-4.0, high=4.0) for u in hidden),
        ]

    def _scale(self, genes: Genes, before: PathSlot, slot: PathSlot) -> float:
        inputs = (
            _spread(self._numbers[before.block], len(self._numbers)),
            _spread(self._numbers[slot.block], len(self._numbers)),
            _spread(slot.number, len(self.slots.all)),
            1.0,
        )
        total = math.fsum(
            float(genes[f"theta.{unit}.out"])
            * math.tanh(
                math.fsum(
                    float(genes[f"theta.{unit}.{word}"]) * value
                    for word, value in zip(self._INPUTS, inputs, strict=True)
                )
            )
            for unit in range(self.scaling.hidden)
        )
        return self.scaling.value(self._squashed(total))

    def _squashed(self, total: float) -> float:
        """The logistic function from low (or -high) to high that is `initial` at 0."""
        scaling = self.scaling
        low = -scaling.high if scaling.negative else scaling.low
        share = (scaling.initial - low) / (scaling.high - low) if scaling.high > low else 0.5
        if total == 0 or not 0 < share < 1:
            return scaling.initial
        return low + (scaling.high - low) / (1 + (1 / share - 1) * math.exp(-total))


KINDS: Mapping[ScaleKind, type[PathScales]] = {
    "none": NoScales,
    "hop": OnePerSlot,
    "matrix": OnePerPair,
    "network": ScaleNetwork,
}


def _spread(number: int, count: int) -> float:
    """A number's place among ``count``, from -1 for number 0 to 1 for the last."""
    return 2 * number / max(count - 1, 1) - 1
