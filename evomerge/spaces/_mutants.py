"""Children with noise on every weight: their genomes hold all steps from the sources to them.

Such a child is no weighted sum of the sources, so that nothing shorter than its lineage gives it
again.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from evomerge.kernels.steps import offspring, replay
from evomerge.recipes import Lineage, LineageStep
from evomerge.spaces._crossing import MixedSpan
from evomerge.types import Genome

_MOST_BYTES = 1 << 30  # of individuals in memory; others are made again when needed
_FEWEST = 40


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
        """The lineage of an individual with steps."""
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
