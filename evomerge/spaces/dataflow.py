"""The data-flow space: a path through the blocks of several models, with scales on its hops.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.2 (merging in the data flow space).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from evomerge.errors import ConfigError, Problem
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import BASE, Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces._path_indicators import (
    Bits,
    Everything,
    Indicators,
    Runs,
    Thresholds,
    order_genes,
    sorted_path,
)
from evomerge.spaces._path_scales import KINDS, Scaling
from evomerge.spaces._path_slots import Block, PathLimits, PathSlot, PathSlots
from evomerge.types import Genome
from evomerge.weights.checkpoint import Checkpoint


def _blocks(value: Any) -> Any:
    """Numbers of blocks, or ``all``."""
    numbers = value if isinstance(value, list) else [None]
    if value != "all" and not all(type(number) is int for number in numbers):
        raise ValueError(f"expected a list of block numbers, such as [0, 1], or all, got {value!r}")
    return value


Blocks = Annotated[list[int] | Literal["all"], BeforeValidator(_blocks)]


def other_base(names: Collection[str]) -> str:
    """What a recipe with these models calls the search's base where another model leads."""
    return next(name for n in count() if (name := "base_model" + n * "_") not in names)


class DataflowSpace(Space):
    """Stacks of blocks: which of them, in which order, and how their hops are scaled.

    PathSlots are the blocks of the models in order, [A's, B's, ...], as often as there are
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
        cast = _Cast(context)
        problems = cast.problems(leading, sources, keep or {})
        if not problems:
            self._models = cast.chosen(leading, sources)
            # at least two where models could not be opened, which is told elsewhere
            unknown = max(context.layers, 2)
            layers = {name: cast.layers.get(name, unknown) for name in self._models}
            self._slots = PathSlots.of(layers, repetitions)
            owned = {cast.own(name): blocks for name, blocks in (keep or {}).items()}
            self._kept = _kept(self._slots, owned)
            sizes, around = _sizes(context, self._models)
            self._limits = PathLimits(max_layers, max_parameters, monotone, sizes, around)
            problems += self._limit_problems()
        scaling = scales or Scaling()
        problems += scaling.problems()
        if cast.layers.get(cast.own(leading), 2) < 2:
            count = cast.layers[cast.own(leading)]
            text = f"{leading}: a path needs two blocks of it, it has {count}."
            problems.append(Problem((), text, about=("leading",)))
        if order and monotone:
            text = "order sorts the blocks of a model."
            problems.append(Problem(("monotone",), text, "Remove one of both.", about=("order",)))
        if overlap and (indicators != "runs" or repetitions < 2):
            text, other = (
                "needs indicators: runs and two repetitions.",
                ("indicators", "repetitions"),
            )
            problems.append(Problem(("overlap",), text, "Remove it.", about=other))
        if problems:
            raise ConfigError(problems)
        self._indicators: Indicators
        match indicators:
            case "bits":
                self._indicators = Bits(self._slots, self._kept)
            case "thresholds":
                self._indicators = Thresholds(self._slots, self._kept, absent)
            case "runs":
                self._indicators = Runs(self._slots, self._kept, overlap)
            case "all":
                self._indicators = Everything(self._slots, self._kept)
        self._hops = KINDS[scaling.kind](scaling, self._slots)
        self._sorted = order
        self.parameters = (
            *self._indicators.parameters,
            *(order_genes(self._slots.between) if order else ()),
            *self._hops.parameters,
        )
        if not self.parameters:
            cure, other = "Set order: true, scales, or bits.", ("order", "scales")
            raise ConfigError(Problem(("indicators",), "nothing varies.", cure, about=other))

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`."""
        chosen = self._indicators.chosen(genome.genes)
        path = sorted_path(chosen.path, genome.genes) if self._sorted else chosen.path
        path = self._limits.repaired(path, kept=self._kept, preference=chosen.preference)
        return self._recipe(path, self._hops.scales(genome.genes, path))

    def largest(self) -> Recipe:
        """See `Space.largest`."""
        sizes = self._limits.sizes
        preference = {slot: -float(sizes.get(slot.block, 0)) for slot in self._slots.all}
        path = self._limits.repaired(self._slots.all, kept=self._kept, preference=preference)
        return self._recipe(path, self._hops.example(len(path)), used=self._models)

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
        """That the smallest path is too large."""
        limits, least = self._limits, [s for s in self._slots.all if s in self._kept]
        why = "the ends of every path and the blocks to keep"
        cure, other = "Raise it, or keep less.", ("leading", "keep")
        problems = []
        if limits.layers is not None and len(least) > limits.layers:
            text = f"{limits.layers}, but {why} are {len(least)}."
            problems.append(Problem(("max_layers",), text, cure, about=other))
        weights = limits.weights(least)
        if limits.parameters is not None and weights > limits.parameters:
            text = (
                f"{limits.parameters}, but the leading model without blocks, {why} have {weights}."
            )
            problems.append(Problem(("max_parameters",), text, cure, about=other))
        return problems


def _kept(slots: PathSlots, keep: Mapping[str, Blocks]) -> frozenset[PathSlot]:
    """The slots that are in every path: the ends, and the first slots of the blocks to keep."""
    ends = {slots.first.block: slots.first, slots.last.block: slots.last}
    kept = set(ends.values())
    for model, blocks in keep.items():
        count = slots.layers[model]
        first = {s.layer: s for s in reversed(slots.between) if s.model == model}
        kept |= {
            ends.get((model, number)) or first[number]
            for number in range(count)
            if blocks == "all" or number in blocks
        }
    return frozenset(kept)


class _Cast:
    """The models by name; the base under the name of the source that it is, if it is one.

    Attributes:
        models: all of them.
        layers: blocks of each; empty where they could not be opened.
    """

    def __init__(self, context: SearchContext) -> None:
        self.sources = dict(context.sources)
        same = [name for name, model in context.sources.items() if model == context.base]
        self._base = same[0] if same else BASE
        self.models = dict(context.sources) if same else {BASE: context.base, **context.sources}
        self.layers = {name: one.layers for name, one in _opened(context, self.models).items()}

    def own(self, name: str) -> str:
        """What the model is called that a person calls so."""
        return self._base if name == BASE else name

    def chosen(self, leading: str, sources: Sequence[str] | None) -> dict[str, str | Recipe]:
        """The models of the paths, the leading one first."""
        others = self.sources if sources is None else sources
        names = dict.fromkeys(self.own(name) for name in (leading, *others))
        return {name: self.models[name] for name in names}

    def problems(
        self, leading: str, sources: Sequence[str] | None, keep: Mapping[str, Blocks]
    ) -> list[Problem]:
        """Names of models that are none, or given twice."""
        names = sorted({BASE, *self.models})
        asked = [("leading", leading), *(("sources", name) for name in sources or ())]
        found = [
            Problem(
                (key,),
                f"no model is called {name!r}.",
                did_you_mean(name, names),
                about=(name,),
            )
            for key, name in asked
            if name not in names
        ]
        counts = Counter(self.own(name) for name in sources or ())
        found += [
            Problem(("sources",), f"{name} is named twice.", "Raise repetitions instead.")
            for name, count in counts.items()
            if count > 1
        ]
        used = names if found else self.chosen(leading, sources)
        for name, blocks in keep.items():
            found += self._keep_problems(name, blocks, used)
        counts = Counter(self.own(name) for name in keep)
        return found + [
            Problem(("keep",), f"{name} is named twice, once as base.", "Name it once.")
            for name, count in counts.items()
            if count > 1
        ]

    def _keep_problems(self, name: str, blocks: Blocks, used: Collection[str]) -> list[Problem]:
        """That the paths have no such model, or it has no such blocks."""
        problems = []
        if self.own(name) not in used:
            known = self.own(name) in self.models
            cure = "Add it to sources." if known else did_you_mean(name, used)
            text = f"{name!r} is not among the models of the paths."
            problems.append(Problem(("keep",), text, cure, about=(name,)))
        count = self.layers.get(self.own(name))
        if count is None or blocks == "all":
            return problems
        outside = ", ".join(str(number) for number in blocks if number not in range(count))
        if outside:
            text = f"it has blocks 0 to {count - 1}, got {outside}"
            problems.append(Problem(("keep", name), text))
        return problems


def _opened(context: SearchContext, models: Mapping[str, str | Recipe]) -> dict[str, Checkpoint]:
    """The models as they are open; none where they could not be."""
    if context.models is None:
        return {}
    known = {BASE: context.models.base, **context.models.sources}
    return {n: known[BASE if model == context.base else n] for n, model in models.items()}


def _sizes(
    context: SearchContext, models: Mapping[str, str | Recipe]
) -> tuple[dict[Block, int], int]:
    """Weights of every block, and of the leading model outside its blocks; none without models."""
    sizes: dict[Block, int] = {}
    around = 0
    for number, (name, checkpoint) in enumerate(_opened(context, models).items()):
        for tensor, place in checkpoint.places.items():
            count = math.prod(checkpoint.tensors[tensor].shape)
            if place.layer is not None:
                sizes[name, place.layer] = sizes.get((name, place.layer), 0) + count
            elif number == 0:
                around += count
    return sizes, around
