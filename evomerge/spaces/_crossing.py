"""How children are made: where chromosomes are split, with which weights, and with noise or none.

A child with noise on every weight is no weighted sum of the sources, so that nothing shorter than
its lineage gives it again: its genome holds all steps from the sources to it.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from evomerge.errors import ConfigError, Problem
from evomerge.kernels.steps import offspring, replay
from evomerge.recipes import Lineage, LineageStep
from evomerge.recipes.layout import Layout
from evomerge.types import Genome

Words = str | list[str]
InnerProducts = tuple[float, float, float]  # ⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩
InnerOf = Callable[[int, int], InnerProducts]  # from one element to another

_LEAST_SINE = 1e-6  # below, the arc is a straight line
_MOST_BYTES = 1 << 30  # of individuals in memory; others are made again when needed
_FEWEST = 40


class MixedSpan(NamedTuple):
    """Elements on which a child is one weighted sum of its parents.

    Attributes:
        start, stop: elements; an empty span changes nothing.
        weights: of each parent.
    """

    start: int
    stop: int
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The options of a crossover; see `CrossoverSpace`.

    Raises:
        ConfigError: an angle of lines.
    """

    interpolation: Literal["lerp", "slerp"] = "lerp"
    angle: Literal["side", "chromosome"] | None = None
    align: Literal["element", "tensor", "layer"] = "element"

    def __post_init__(self) -> None:
        if self.angle is not None and self.interpolation == "lerp":
            text, cure = "lines have none.", "Set interpolation: slerp, or leave it out."
            raise ConfigError(Problem(("angle",), text, cure, about=("interpolation",)))

    def spans(
        self, genes: Mapping[str, Any], names: Iterable[str], layout: Layout, inner_of: InnerOf
    ) -> dict[str, tuple[MixedSpan, MixedSpan]]:
        """Chromosome to the two spans that a child's crossing mixes, before and after its split.

        Args:
            genes: ``split[c]`` and ``ratio[c]`` of every chromosome c.
            names: (C,) of the chromosomes.
            inner_of: the parents' inner products; not asked under ``lerp``.
        """
        spans = {}
        for name, (start, stop) in zip(names, pairwise(layout.edges), strict=True):
            cut = self._cut(layout, start, stop, float(genes[f"split[{name}]"]))
            ratio = float(genes[f"ratio[{name}]"])
            if self.interpolation == "lerp":
                before, after = lerp_weights(ratio), lerp_weights(1 - ratio)
            elif self.angle == "chromosome":
                inner = inner_of(start, stop)
                before, after = slerp_weights(inner, ratio), slerp_weights(inner, 1 - ratio)
            else:
                before = slerp_weights(inner_of(start, cut), ratio)
                after = slerp_weights(inner_of(cut, stop), 1 - ratio)
            spans[name] = MixedSpan(start, cut, before), MixedSpan(cut, stop, after)
        return spans

    def _cut(self, layout: Layout, start: int, stop: int, split: float) -> int:
        """The element at which a chromosome is split, the nearest that is allowed."""
        cut = start + round(split * (stop - start))
        if self.align == "element":
            return cut
        allowed = layout.starts if self.align == "tensor" else layout.layers
        inside = [position for position in allowed if start <= position <= stop]
        return min(inside, key=lambda position: abs(position - cut))


def lerp_weights(t: float) -> tuple[float, float]:
    """The weights of two models at fraction t of the straight line between them."""
    return 1 - t, t


def slerp_weights(inner: InnerProducts, t: float) -> tuple[float, float]:
    """The weights of two vectors at fraction t of the arc between them; a line where it is none.

    Source: Shoemake 1985, doi:10.1145/325165.325242; M2N2, arXiv:2508.16204.
    """
    xx, xy, yy = inner
    lengths = math.sqrt(max(xx, 0.0) * max(yy, 0.0))
    if lengths == 0:
        return lerp_weights(t)
    angle = math.acos(min(max(xy / lengths, -1.0), 1.0))
    sine = math.sin(angle)
    if sine <= _LEAST_SINE:
        return lerp_weights(t)
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def chromosome_words(option: str | list[str] | Mapping[str, Words]) -> dict[str, list[str]]:
    """Chromosome to its words, from the option ``chromosomes``.

    Raises:
        ConfigError: none, one without a word, or a name given twice.
    """
    names: list[str] = [option] if isinstance(option, str) else list(option)
    named = option if isinstance(option, Mapping) else {name: name for name in names}
    words_of = {n: [words] if isinstance(words, str) else list(words) for n, words in named.items()}
    if not words_of or not all(words_of.values()):
        text = "name at least one, and words for each."
        raise ConfigError(Problem(("chromosomes",), text, "Try: all"))
    if len(words_of) < len(names):
        raise ConfigError(Problem(("chromosomes",), "one is named twice.", "Remove it."))
    return words_of


def is_mutated(genome: Genome) -> bool:
    """Whether a genome asks for mutations, or holds steps already."""
    return "sigma" in genome.genes or "steps" in genome.genes


def make_step(
    genome: Genome, names: Sequence[str | int], spans: Sequence[MixedSpan]
) -> LineageStep:
    """The last step of a child's lineage.

    Args:
        genome: with the genes ``noise`` and ``sigma``.
        names: of its parents.
        spans: in order; empty ones are left out.
    """
    filled = [span for span in spans if span.stop > span.start]
    return LineageStep(
        number=genome.genes["noise"],
        parents=tuple(names),
        ends=tuple(span.stop for span in filled),
        weights=tuple(tuple(map(_short, span.weights)) for span in filled),
        sigma=genome.genes["sigma"],
    )


def name_of(genome: Genome) -> str | int:
    """The name of an individual in steps: its source, or the number of its last step."""
    steps = genome.genes.get("steps")
    name: str | int = genome.genes["source"] if steps is None else steps[-1]["number"]
    return name


def joined(parents: Sequence[Genome], step: LineageStep) -> list[dict[str, Any]]:
    """The steps of a child as JSON: those of its parents, each once, and its own."""
    steps = {s["number"]: s for parent in parents for s in parent.genes.get("steps", ())}
    own = step.model_dump(mode="json")
    return [*(steps[number] for number in sorted(steps)), own]


class Individuals:
    """The elements of individuals, the latest kept in memory.

    Args:
        sources: reads them, name to (N,) float32; called once, when they are needed.
        chromosomes: (C,) words of each, for lineages.
        seed: of the noise.
    """

    def __init__(
        self,
        sources: Callable[[], dict[str, Tensor]],
        chromosomes: Sequence[Sequence[str]],
        seed: int,
    ) -> None:
        self._read, self._seed = sources, seed
        self._chromosomes = tuple(tuple(words) for words in chromosomes)
        self._kept: OrderedDict[LineageStep, Tensor] = OrderedDict()

    @cached_property
    def sources(self) -> dict[str, Tensor]:
        """Name to (N,) float32."""
        return self._read()

    def lineage(self, genome: Genome) -> Lineage:
        return Lineage(chromosomes=self._chromosomes, steps=genome.genes["steps"])

    def elements(self, genome: Genome) -> Tensor:
        """(N,) float32 of a source, or of an individual with steps."""
        if "steps" not in genome.genes:
            return self.sources[genome.genes["source"]]
        last = LineageStep.model_validate(genome.genes["steps"][-1])
        if last not in self._kept:
            self.keep(last, replay(self.lineage(genome), self.sources, self._seed))
        self._kept.move_to_end(last)
        return self._kept[last]

    def offspring(self, step: LineageStep, parents: Sequence[Tensor]) -> Tensor:
        """(N,) float32 of a child."""
        return offspring(step, parents, self._seed)

    def keep(self, step: LineageStep, elements: Tensor) -> None:
        """Hold on to (N,) elements of an individual, and let go of those that were used first."""
        self._kept[step] = elements
        most = max(_FEWEST, _MOST_BYTES // max(1, elements.nbytes))
        while len(self._kept) > most:
            self._kept.popitem(last=False)


def _short(weight: float) -> float:
    """The shortest decimal of the nearest float32, which is what is computed with."""
    return float(str(np.float32(weight)))
