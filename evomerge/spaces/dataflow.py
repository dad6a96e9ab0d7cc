"""The data-flow space: a path through the blocks of several models, with scales on its hops.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2 (merging in the data flow space).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from evomerge.errors import ConfigError, Problem
from evomerge.recipes import BASE, Recipe, other_base
from evomerge.spaces import SearchContext, Space
from evomerge.spaces._encoding import of_other_kind
from evomerge.spaces._path_indicators import KINDS as INDICATORS
from evomerge.spaces._path_indicators import genes_of_order, order_genes, sorted_path
from evomerge.spaces._path_models import Blocks, PathModels
from evomerge.spaces._path_scales import KINDS, Scaling
from evomerge.spaces._path_slots import Block, PathLimits, PathSlot, PathSlots
from evomerge.types import Genome, Proposal


class DataflowSpace(Space):
    """Stacks of blocks: which of them, in which order, and how their hops are scaled.

    Slots are the blocks of the models in order, [A's, B's, ...], as often as there are
    `repetitions`; the leading model A's first block is at the beginning of every path, its last
    block at the end, and its embedding, tokenizer, final norm and head are those of every stack.
    The search starts from A's own path with every scale at `initial`.

    A path that breaks a limit loses blocks until it does not: first, if `monotone`, those that
    step back; then those with the lowest threshold, of equals (and of bits, runs and slots that
    are all in) the last in the path. The ends and the blocks of `keep` stay.

    Args:
        context: the models, open.
        leading: A: a source's name, or ``base``.
        sources: the other models, in order; all sources by default, none for A alone.
        repetitions: how often the models come one after another.
        indicators: ``bits``, a flag a slot; ``thresholds``, a number a slot, which is in where it
            is positive; ``runs``, where one run of blocks begins and ends, for each model in each
            repetition; ``all`` slots are in.
        absent: where the thresholds of absent slots start; those of A start at 2/3.
        overlap: of ``runs``: the share of A's blocks that its first two runs share at the start.
        order: sort what is between the ends by genes of their own.
        scales: ``none``, ``hop`` (the default), ``matrix``, ``network``, or all of a `Scaling`.
        max_layers: blocks of the deepest stack.
        max_parameters: weights of the largest stack.
        monotone: along a path the blocks of one model never step back; repeats are no step.
        keep: model to the numbers of its blocks that are always in, or ``all``.

    Raises:
        ConfigError: no such models, limits that the blocks to keep break, or nothing that varies.
    """

    stacks_only = True

    def __init__(
        self,
        context: SearchContext,
        *,
        leading: str = BASE,
        sources: list[str] | None = None,
        repetitions: Annotated[int, Field(ge=1, le=16)] = 3,
        indicators: Literal["bits", "thresholds", "runs", "all"] = "bits",
        absent: Annotated[float, Field(ge=-1, le=0)] = 0.0,
        overlap: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        order: bool = False,
        scales: Scaling | None = None,
        max_layers: Annotated[int, Field(ge=2)] | None = None,
        max_parameters: Annotated[int, Field(ge=1)] | None = None,
        monotone: bool = False,
        keep: dict[str, Blocks] | None = None,
    ) -> None:
        self.operators: tuple[str, ...] = ()
        self.context = context
        models = PathModels(context)
        problems = models.problems(leading, sources, keep or {})
        if not problems:
            self._models = models.chosen(leading, sources)
            # at least two where models could not be opened, which another message says
            unknown = max(context.layers, 2)
            depths = {name: models.layers(name) for name in self._models}
            layers = {name: unknown if n is None else n for name, n in depths.items()}
            self._slots = PathSlots.of(layers, repetitions)
            self._kept = self._slots.kept({models.own(n): some for n, some in (keep or {}).items()})
            sizes, around = models.sizes(self._models)
            self._limits = PathLimits(max_layers, max_parameters, monotone, sizes, around)
            problems += self._limit_problems()
        scaling = scales or Scaling()
        problems += scaling.problems()
        if order and monotone:
            text = "order sorts the blocks of a model."
            problems.append(Problem(("monotone",), text, "Remove one of both.", about=("order",)))
        if overlap and (indicators != "runs" or repetitions < 2):
            text = "needs indicators: runs and two repetitions. Remove it."
            problems.append(Problem(("overlap",), text, about=("indicators", "repetitions")))
        if problems:
            raise ConfigError(problems)
        self._indicators = INDICATORS[indicators](self._slots, self._kept, absent, overlap)
        self._scales = KINDS[scaling.kind](scaling, self._slots)
        self._sorted = order
        self.parameters = (
            *self._indicators.parameters,
            *(order_genes(self._slots.between) if order else ()),
            *self._scales.parameters,
        )
        if not self.parameters:
            cure, other = "Set order: true, scales, or bits.", ("order", "scales")
            raise ConfigError(Problem(("indicators",), "nothing varies.", cure, about=other))

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`."""
        return self._recipe(*self._path(genome))

    def _path(self, genome: Genome) -> tuple[Sequence[PathSlot], Sequence[float]]:
        """The path of a genome, and the scales on its hops."""
        path = self._indicators.path(genome.genes)
        if self._sorted:
            path = sorted_path(path, genome.genes)
        preference = self._indicators.preference(genome.genes)
        path = self._limits.repaired(path, kept=self._kept, preference=preference)
        return path, self._scales.scales(genome.genes, path)

    @property
    def leading(self) -> str:
        """The name of the model at both ends of every path."""
        return self._slots.first.model

    def encode(self, recipe: Recipe) -> Genome:
        """See `Space.encode`; scales of a ``network`` have no inverse but where it starts."""
        problems = of_other_kind(recipe, ("modules", "segments", "lineage"))
        if recipe.operator != "passthrough":
            text = f"{recipe.operator}, and this space stacks blocks as they are."
            problems.append(Problem(("operator",), text))
        blocks: list[Block] = []
        for number, slice_ in enumerate(recipe.slices):
            for name, (start, stop) in slice_.items():
                model = self._named(recipe, name)
                if model is None:
                    text = f"{name} is none of the models of this space: {', '.join(self._models)}."
                    problems.append(Problem(("slices", number), text))
                else:
                    blocks += [(model, layer) for layer in range(start, stop)]
        if not problems:
            genome, problems = self.along(blocks, recipe.scales)
        if problems:
            raise ConfigError(problems)
        return genome

    def _named(self, recipe: Recipe, name: str) -> str | None:
        """What a model of a recipe is called in this space; None if it has no such model."""
        model = recipe.base if name == BASE else recipe.sources[name]
        same = [known for known, other in self._models.items() if other == model]
        return name if name in same else next(iter(same), None)

    def along(
        self, blocks: Sequence[Block], scales: Sequence[float] = ()
    ) -> tuple[Genome, list[Problem]]:
        """The genome of a path through these blocks, and why there is none that gives just it.

        Args:
            blocks: models, by their names in this space, and numbers of their blocks.
            scales: (depth,) on the hop into each; () for 1 throughout.
        """
        path, known = self._slots.along(blocks, in_order=not self._sorted), self.initial().genes
        if not path:
            ends = f"{self.leading}'s first block to its last"
            text = f"no path of this space goes through these blocks: from {ends}, in the order of "
            text += f"models and blocks, {self._slots.last.repetition + 1} times."
            return Genome(known), [Problem(("slices",), text)]
        hops = scales or (1.0,) * len(path)
        order = genes_of_order(path) if self._sorted else {}
        genes = {**self._indicators.genes(path), **order, **self._scales.genes(path, hops)}
        genome, problems = Genome({**known, **genes}), []
        found, made = self._path(genome)
        if [slot.block for slot in found] != list(blocks):
            text = "a path that the limits or kept blocks of this space make another of."
            problems.append(Problem(("slices",), text))
        elif any(abs(one - other) > 1e-9 for one, other in zip(made, hops, strict=True)):
            text = "no genome of this space gives these: look at its kind, low and high."
            problems.append(Problem(("scales",), text))
        return genome, problems

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """See `Space.starts`: the leading model's path, and others' blocks between its ends."""
        starts = super().starts()
        count = self._slots.layers[self.leading]
        for name in dict.fromkeys([*(n for n in best_first if n in self._models), *self._models]):
            inner = [(name, layer) for layer in range(1, self._slots.layers[name] - 1)]
            ends = (self.leading, 0), (self.leading, count - 1)
            genome, problems = self.along([ends[0], *inner, ends[1]])
            if not problems and self.decode(genome) != self.decode(starts[0].genome):
                starts.append(Proposal(f"{name} between the ends of {self.leading}", genome))
        return starts

    def largest(self) -> Recipe:
        """See `Space.largest`."""
        sizes = self._limits.sizes
        preference = {slot: -float(sizes.get(slot.block, 0)) for slot in self._slots.all}
        path = self._limits.repaired(self._slots.all, kept=self._kept, preference=preference)
        return self._recipe(path, self._scales.example(len(path)), used=self._models)

    def _recipe(
        self, path: Sequence[PathSlot], scales: Sequence[float], used: Collection[str] = ()
    ) -> Recipe:
        leading = self._slots.first.model
        needed = {slot.model for slot in path}.union(used, [self.context.tokenizer or leading])
        # what a recipe calls its base is the leading model
        names = {name: name for name in self._models if name in needed}
        if BASE in names and leading != BASE:
            names[BASE] = other_base(self._models)
        sources = {names[name]: self._models[name] for name in names}
        context = replace(self.context, base=self._models[leading], sources=sources)
        slices = [{names[slot.model]: [slot.layer, slot.layer + 1]} for slot in path]
        return context.recipe("passthrough", stack={"slices": slices, "scales": list(scales)})

    def _limit_problems(self) -> list[Problem]:
        """What is wrong with the limits: even the smallest path is larger."""
        limits, least = self._limits, [s for s in self._slots.all if s in self._kept]
        why = "the ends of every path and the blocks to keep"
        cure, other = "Raise it, or keep less.", ("leading", "keep")
        problems = []
        if limits.layers is not None and len(least) > limits.layers:
            text = f"{limits.layers}, but {why} are {len(least)}."
            problems.append(Problem(("max_layers",), text, cure, about=other))
        weights = limits.weights(least)
        if limits.parameters is not None and weights > limits.parameters:
            parts = f"the leading model without blocks, {why}"
            text = f"{limits.parameters}, but {parts} have {weights}."
            problems.append(Problem(("max_parameters",), text, cure, about=other))
        return problems
