"""The joint space: a path through blocks, each of them a merge of all models.

Source: Akiba et al. 2024, arXiv:2403.13187: sections 3.1 and 3.2 at once, where section 3.3 has one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evomerge.errors import ConfigError, Problem, shown
from evomerge.plugins.registry import make
from evomerge.recipes import BASE, Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces.dataflow import DataflowSpace
from evomerge.spaces.parameter import ParameterSpace
from evomerge.types import Genome, Proposal

T = TypeVar("T", bound=Space)

_REFUSED = {
    "leading": "base and sources are merged in every block. Remove this key.",
    "sources": "all sources of the search are merged in every block. Remove this key.",
}


class JointSpace(Space):
    """Merged blocks, a path through them, and its scales.

    Merged block l is made of the blocks l of base and sources, as in the space `parameter`; the
    path goes through the merged blocks, as in the space `dataflow` over one model. A block that
    comes twice is the same merge both times, but for what an operator draws at random. Tensors
    outside the blocks are merged as well.

    Args:
        context: the models, open.
        merge: keys of the space `parameter`.
        path: keys of the space `dataflow`, except those that name models.

    Raises:
        ConfigError: what either space refuses.
    """

    def __init__(
        self, context: SearchContext, *, merge: dict[str, Any], path: dict[str, Any] | None = None
    ) -> None:
        self.context = context
        keys = {**(path or {}), "leading": BASE, "sources": []}
        problems = [
            Problem(("path", key), why) for key, why in _REFUSED.items() if key in (path or {})
        ]
        merging = _made(problems, "merge", ParameterSpace, merge, context)
        if strays := _keep_problems(keys.get("keep")):
            problems += strays
            del keys["keep"]
        pathing = _made(problems, "path", DataflowSpace, keys, context)
        if merging is not None:
            problems += _length_problems(merging.decode(merging.initial()), context)
        if problems:
            raise ConfigError(problems)
        assert merging is not None and pathing is not None
        self._merge, self._path = merging, pathing
        self.operators = merging.operators
        self.parameters = (*merging.parameters, *pathing.parameters)

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`."""
        return self._stacked(self._merge.decode(genome), self._path.decode(genome))

    def encode(self, recipe: Recipe) -> Genome:
        """See `Space.encode`; blocks that are not in the path count as the nearest that is."""
        layers = [next(iter(slice_.values()))[0] for slice_ in recipe.slices]
        names = {BASE, *self.context.sources}
        if not layers or not all(
            slice_.keys() == names and set(slice_.values()) == {(layer, layer + 1)}
            for slice_, layer in zip(recipe.slices, layers, strict=True)
        ):
            text = "expected slices of one block, each a merge of this block of base and sources."
            raise ConfigError(Problem(("slices",), text))
        if wrong := [name for name, count in recipe.lists() if count != len(layers)]:
            text = f"expected {len(layers)} values, one for each slice."
            raise ConfigError([Problem((name,), text) for name in wrong])
        path, problems = self._path.along([(self._path.leading, n) for n in layers], recipe.scales)
        text = "a block that comes twice has other values the second time: here they are one."
        problems += [Problem((name,), text) for name in _differing(recipe, layers)]
        by_layer = [_nearest(layers, layer) for layer in range(self.context.layers)]
        parameters = {name: _picked(value, by_layer) for name, value in recipe.parameters.items()}
        plain = {"slices": (), "scales": (), "parameters": parameters}
        merged = path
        try:
            merged = self._merge.encode(recipe.model_copy(update=plain))
        except ConfigError as error:
            problems += error.details
        if problems:
            raise ConfigError(problems)
        return Genome({**path.genes, **merged.genes})

    def with_values(self, values: Mapping[str, Any]) -> Genome:
        """See `Space.with_values`: of the merge, along the first path."""
        return Genome({**self._path.initial().genes, **self._merge.with_values(values).genes})

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """See `Space.starts`: those of the merge, along the first path."""
        path = self._path.initial().genes
        return [
            Proposal(label, Genome({**genome.genes, **path}))
            for label, genome in self._merge.starts(best_first)
        ]

    def largest(self) -> Recipe:
        """See `Space.largest`."""
        return self._stacked(self._merge.decode(self._merge.initial()), self._path.largest())

    def _stacked(self, merged: Recipe, path: Recipe) -> Recipe:
        """The second recipe's path, with the merged blocks of the first recipe in it."""
        layers = [next(iter(slice_.values()))[0] for slice_ in path.slices]
        names = [BASE, *(name for name in merged.sources if name != BASE)]
        slices = [{name: [layer, layer + 1] for name in names} for layer in layers]
        parameters = {name: _picked(value, layers) for name, value in merged.parameters.items()}
        context = replace(self.context, sources=dict(merged.sources))  # in the order of the genome
        stack = {"slices": slices, "scales": list(path.scales)}
        return context.recipe(merged.operator, parameters, stack=stack)


def _keep_problems(keep: Any) -> list[Problem]:
    """What is wrong with ``keep``: blocks of a source, where all blocks are the base's."""
    names = [name for name in keep if name != BASE] if isinstance(keep, Mapping) else []
    text = "every block is a merge of all models, and called base."
    return [
        Problem(("path", "keep"), text, f"Write base in place of {shown(name)}.") for name in names
    ]


def _length_problems(merged: Recipe, context: SearchContext) -> list[Problem]:
    """What is wrong with settings by block: not one value for each block of the base."""
    if context.models is None:
        return []
    why = f"but the base has {context.layers} blocks. Give one value a block."
    return [
        Problem(("merge", "parameters", where), f"{count} values, {why}")
        for where, count in merged.lists()
        if count != context.layers
    ]


def _nearest(layers: Sequence[int], layer: int) -> int:
    """The first place in a path of a block of the base, or of the nearest one that is in it."""
    return min(range(len(layers)), key=lambda place: abs(layers[place] - layer))


def _differing(recipe: Recipe, layers: Sequence[int]) -> list[str]:
    """The parameters whose values differ between the places of one block."""
    first = [layers.index(layer) for layer in layers]
    return [n for n, value in recipe.parameters.items() if _picked(value, first) != value]


def _picked(setting: Any, layers: Sequence[int]) -> Any:
    """A setting by block of the base, rewritten by block of the path."""
    if isinstance(setting, Mapping):
        return {key: _picked(value, layers) for key, value in setting.items()}
    if isinstance(setting, list) and not isinstance(setting[0], Mapping):  # else by tensor
        return [setting[layer] for layer in layers]
    return setting


def _made(
    problems: list[Problem],
    key: str,
    kind: Callable[..., T],
    keys: Mapping[str, Any],
    context: SearchContext,
) -> T | None:
    """The inner space under a key; None, and its problems collected, if a key of it is wrong."""
    try:
        return make(kind, keys, context)
    except ConfigError as error:
        problems += [problem.under(key) for problem in error.details]
        return None
