"""The crossover space: children of models, on every stretch of elements a weighted sum of sources.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.kernels.measures import products
from evomerge.kernels.sums import piecewise_sum
from evomerge.recipes import LineageStep, Recipe
from evomerge.recipes.layout import Layout
from evomerge.spaces import SearchContext, Space
from evomerge.spaces._coefficients import CoefficientCache, Coefficients, cross, inner_products
from evomerge.spaces._crossing import (
    Crossing,
    Individuals,
    InnerProducts,
    MixedSpan,
    Words,
    chromosome_words,
    is_mutated,
    joined,
    make_step,
    name_of,
)
from evomerge.spaces._starts import source_weights
from evomerge.types import Genome, Parameter, PrefixGram, Proposal
from evomerge.weights.segments import PrefixGrams, flat_sources, layout_of


class CrossoverSpace(Space):
    """The sources, and all their descendants by crossing.

    A genome without parents is a source. A genome with two is asked with ``split[c]`` and
    ``ratio[c]`` for every chromosome c: before the split the child is the parents' mixture at that
    ratio, after it at one minus the ratio. `child` adds what follows from the parents:
    ``cut[c]``, the elements at which the chromosome begins, is split, and ends; ``left[c]`` and
    ``right[c]``, the parents' weights on both sides; and the child's own ``bounds`` and ``rows``.

    A genome that is also asked with ``sigma`` gets noise of that standard deviation on every
    element, number ``noise`` of the context's seed. In place of bounds and rows it has ``steps``,
    all that lead to it: such a recipe grows with the number of ancestors. Under ``slerp`` the
    latest individuals are kept in memory, because their angles are asked for.

    Args:
        context: the models, open.
        interpolation: ``lerp``, or ``slerp``, which differs where angles between the models are
            large: hardly for fine-tunes of one base, but for their task vectors.
        angle: which angle ``slerp`` uses: that of each ``side`` of a split, as in the paper and by
            default, or that of the whole ``chromosome``, as in its published code. A side of a few
            elements may have an angle near π, and a child many times as long as its parents.
        align: where models may be split: at any ``element``, ``tensor`` or ``layer``.
        space: what is summed: ``weights``, or ``task_vector`` for sources minus base.
        chromosomes: the parts that are split independently: a role (``attention``, ``mlp``, ...),
            a pattern of tensor names (``model.layers.0.*``), ``rest`` for all others, or ``all``;
            one, a list, or names with one or several of these words each.

    Raises:
        ConfigError: fewer than two sources, unknown chromosomes, or an angle without slerp.
        PlanError: tensors that not all sources have, or that belong to no chromosome.
    """

    needs_parents = True
    operators = ("linear",)  # its default is the average: the baseline to beat

    def __init__(
        self,
        context: SearchContext,
        *,
        interpolation: Literal["lerp", "slerp"] = "lerp",
        angle: Literal["side", "chromosome"] | None = None,
        align: Literal["element", "tensor", "layer"] = "element",
        space: Literal["weights", "task_vector"] = "weights",
        chromosomes: str | list[str] | dict[str, Words] = "all",
    ) -> None:
        self.context, self.space = context, space
        self.crossing = Crossing(interpolation, angle, align)
        self.chromosomes = chromosome_words(chromosomes)
        sources = tuple(context.sources)
        if len(sources) < 2:
            raise ConfigError(f"crossover needs two sources, got {len(sources)}. Add one.")
        self.parameters = (
            Parameter("source", "choice", sources[0], choices=sources),
            *(
                Parameter(f"{kind}[{name}]", "float", 0.5)
                for kind in ("split", "ratio")
                for name in self.chromosomes
            ),
        )
        self._coefficients = CoefficientCache()
        self._on_deltas = space == "task_vector"
        self._layout: Layout | None = None
        words = list(self.chromosomes.values())
        if context.models is not None:  # else they could not be opened, as another message says
            self._layout = layout_of(context.models, words, task_vectors=self._on_deltas)
            self._grams = PrefixGrams(context.models, self._layout, task_vectors=self._on_deltas)
        self.individuals = Individuals(self._flat_sources, words, context.seed)

    @property
    def layout(self) -> Layout:
        """Where every tensor's elements are.

        Raises:
            ConfigError: the space was made without open models.
        """
        if self._layout is None:
            raise ConfigError(
                "crossover: expected open models, got a context without. "
                "Give them: SearchContext(..., models=Library().open(base, sources))."
            )
        return self._layout

    def child(self, genome: Genome, parents: Sequence[Genome]) -> Genome:
        """See `Space.child`; a single parent is copied, and so are two that are equal."""
        if is_mutated(genome):
            return self._mutated(genome, parents)
        genes = _without_source(genome)
        individuals = [self._coefficients_of(parent) for parent in parents]
        crossed = individuals[0]
        if len(individuals) == 2:
            first, second = individuals

            def inner(start: int, stop: int) -> InnerProducts:
                return inner_products(first, second, start, stop, self._grams.at)

            spans = self.crossing.spans(genes, self.chromosomes, self.layout, inner)
            for name, (left, right) in spans.items():
                genes[f"cut[{name}]"] = [left.start, left.stop, right.stop]
                genes[f"left[{name}]"] = list(left.weights)
                genes[f"right[{name}]"] = list(right.weights)
            crossed = cross(first, second, [side for sides in spans.values() for side in sides])
        genes |= {"bounds": crossed.bounds.tolist(), "rows": crossed.rows.tolist()}
        child = Genome(genes, genome.parents)
        self._coefficients.keep(child, crossed)
        return child

    def step(
        self, genome: Genome, names: Sequence[str | int], parents: Sequence[Tensor] = ()
    ) -> LineageStep:
        """The last step of a mutated child's lineage, from its genes and its parents' elements.

        Args:
            genome: as the optimizer proposes it.
            names: (M,) of the parents: a source, or the gene ``noise`` of an individual.
            parents: (M,) of (N,) float32, their elements; under ``lerp`` they are not needed.
        """

        def inner(start: int, stop: int) -> InnerProducts:
            first, second = parents
            return products(first[start:stop], second[start:stop])

        if len(names) == 1:
            copied = [MixedSpan(*ends, (1.0,)) for ends in pairwise(self.layout.edges)]
            return make_step(genome, names, copied)
        spans = self.crossing.spans(genome.genes, self.chromosomes, self.layout, inner)
        return make_step(genome, names, [side for sides in spans.values() for side in sides])

    def elements(self, genome: Genome) -> Tensor:
        """(N,) float32 of an individual, in the order of the layout: what its recipe builds.

        Args:
            genome: completed by `child`.
        """
        if "bounds" not in genome.genes:
            return self.individuals.elements(genome)
        bounds, rows = self._coefficients_of(genome)
        return piecewise_sum(list(self.individuals.sources.values()), bounds[1:], rows)

    def _mutated(self, genome: Genome, parents: Sequence[Genome]) -> Genome:
        known = self.crossing.interpolation == "slerp"
        elements = [self.individuals.elements(parent) for parent in parents] if known else []
        step = self.step(genome, [name_of(parent) for parent in parents], elements)
        if known:
            self.individuals.keep(step, self.individuals.offspring(step, elements))
        genes = {**_without_source(genome), "steps": joined(parents, step)}
        return Genome(genes, genome.parents)

    def _flat_sources(self) -> dict[str, Tensor]:
        layout, models = self.layout, self.context.models
        assert models is not None
        return flat_sources(models, layout, task_vectors=self._on_deltas)

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`; a source alone is the recipe of that source's baseline."""
        genes, context = genome.genes, self.context
        parameters = {"space": self.space} if self._on_deltas else {}
        if "steps" in genes:
            lineage = self.individuals.lineage(genome)
            return context.recipe("segments", parameters, lineage=lineage)
        alone = _source_alone(genes, tuple(context.sources))
        if alone is not None:
            context = replace(context, sources={alone: context.sources[alone]})
            return context.recipe("linear", {"weight": 1.0})
        segments = {
            "chromosomes": list(self.chromosomes.values()),
            "bounds": genes["bounds"],
            "rows": genes["rows"],
        }
        return context.recipe("segments", parameters, segments=segments)

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """See `Space.starts`: sums of the sources, the same on all elements.

        Of weights they are means: only task vectors may add up to more than one model.
        """
        sources = tuple(self.context.sources)
        starts: dict[tuple[float, ...], Proposal] = {}
        for label, weights in source_weights(sources, best_first):
            total = 1.0 if self._on_deltas else math.fsum(weights.values())
            row = [weights[name] / total for name in sources]
            genes = {"bounds": [0, self.layout.size], "rows": [row]}
            alone = _source_alone(genes, sources)
            seed = {**self.initial().genes, "source": alone} if alone else genes
            same = tuple(round(weight, 12) for weight in row)  # 0.7 of 2.1 is 1 of 3
            starts.setdefault(same, Proposal(label, Genome(seed)))
        return list(starts.values())

    def representative(self) -> Genome:
        """See `Space.representative`: a child of the first two sources, cut in the middle."""
        first, second = list(self.context.sources)[:2]
        initial = self.initial().genes.items()
        genes = {name: 0.25 if name.startswith("ratio[") else gene for name, gene in initial}
        parents = [Genome({**genes, "source": source}) for source in (first, second)]
        return self.child(Genome(genes, (0, 1)), parents)

    def load_grams(self, measured: Sequence[PrefixGram]) -> None:
        """See `Space.load_grams`."""
        if self.crossing.interpolation == "slerp" and measured:
            self._grams.load(measured)

    def new_grams(self) -> list[PrefixGram]:
        """See `Space.new_grams`."""
        return [] if self._layout is None else self._grams.take_new()

    def _coefficients_of(self, genome: Genome) -> Coefficients:
        if "bounds" in genome.genes:
            return self._coefficients.of(genome)
        one_hot = [float(name == genome.genes["source"]) for name in self.context.sources]
        return Coefficients(np.array([0, self.layout.size], np.int64), np.array([one_hot]))


def _without_source(genome: Genome) -> dict[str, Any]:
    """A child's genes without ``source``, which counts in seeds only."""
    return {name: gene for name, gene in genome.genes.items() if name != "source"}


def _source_alone(genes: Mapping[str, Any], sources: Sequence[str]) -> str | None:
    """The source that a genome is, if it is one: a seed, or the copy of a seed."""
    if "bounds" not in genes:
        return str(genes["source"])
    row = list(genes["rows"][0])
    is_one_hot = len(genes["rows"]) == 1 and sorted(row) == [0.0] * (len(row) - 1) + [1.0]
    return sources[row.index(1.0)] if is_one_hot else None
