"""The joint space: a path through blocks, each of them a merge of all models.

Source: Akiba et al. 2024, arXiv:2403.13187: sections 3.1 and 3.2 at once, where section 3.3 has one
after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from evomerge.errors import ConfigError, Problem
from evomerge.plugins.registry import make
from evomerge.recipes import BASE, Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces.dataflow import DataflowSpace
from evomerge.spaces.parameter import ParameterSpace
from evomerge.types import Genome

T = TypeVar("T", bound=Space)

_REFUSED = {
    "leading": "base and sources are merged in every block. Remove this key.",
    "sources": "all sources of the search are merged in every block. Remove this key.",
}


class JointSpace(Space):
    """How blocks are merged, which of the merged blocks follow each other, and their scales.

    Block l of the merged model is made of the blocks l of base and sources, as in the space
    `parameter`; the path goes through these, as in the space `dataflow` over one model. A block
    that comes twice is merged alike both times, but for what an operator draws at random. What is
    outside the blocks is merged as well.

    Args:
        context: the models, open.
        merge: keys of the space `parameter`.
        path: keys of the space `dataflow`, but for those that name models.

    Raises:
        ConfigError: what either space refuses.
    """

    def __init__(
        self, context: SearchContext, *, merge: dict[str, Any], path: dict[str, Any] | None = None
    ) -> None:
        self.context = context
        given = path or {}
        problems = [Problem(("path", key), why) for key, why in _REFUSED.items() if key in given]
        own = {key: value for key, value in given.items() if key not in _REFUSED}
        alone = {"leading": BASE, "sources": []}
        merging = _made(problems, "merge", lambda: _space(ParameterSpace, context, merge))
        problems += _stray_problems(own.pop("keep", None), own)
        pathing = _made(problems, "path", lambda: _space(DataflowSpace, context, own | alone))
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

    def largest(self) -> Recipe:
        """See `Space.largest`."""
        return self._stacked(self._merge.decode(self._merge.initial()), self._path.largest())

    def _stacked(self, merged: Recipe, path: Recipe) -> Recipe:
        """The path of the second recipe through the blocks of the first."""
        layers = [next(iter(slice_.values()))[0] for slice_ in path.slices]
        names = [BASE, *(name for name in merged.sources if name != BASE)]
        slices = [{name: [layer, layer + 1] for name in names} for layer in layers]
        parameters = {name: _picked(value, layers) for name, value in merged.parameters.items()}
        context = replace(self.context, sources=dict(merged.sources))  # in the order of the genome
        stack = {"slices": slices, "scales": list(path.scales)}
        return context.recipe(merged.operator, parameters, stack=stack)


def _stray_problems(keep: Any, own: dict[str, Any]) -> list[Problem]:
    """Put the blocks to keep back into the keys of the path, unless they are of a source."""
    stray = [name for name in keep if name != BASE] if isinstance(keep, Mapping) else []
    if keep is not None and not stray:
        own["keep"] = keep
    text = "every block is a merge of all models, and called base."
    return [Problem(("path", "keep"), text, f"Write base in place of {name!r}.") for name in stray]


def _length_problems(merged: Recipe, context: SearchContext) -> list[Problem]:
    """Fixed settings that give another number of values than there are blocks to merge."""
    if context.models is None:
        return []
    why = f"but the base has {context.layers} blocks. Give one value a block."
    return [
        Problem(("merge", "parameters", where), f"{count} values, {why}")
        for where, count in merged.lists()
        if count != context.layers
    ]


def _picked(setting: Any, layers: Sequence[int]) -> Any:
    """A setting with its values by block in the order of the path: output blocks count."""
    if isinstance(setting, Mapping):
        return {key: _picked(value, layers) for key, value in setting.items()}
    if isinstance(setting, list):
        return [setting[layer] for layer in layers]
    return setting


def _space(kind: Callable[..., T], context: SearchContext, keys: Mapping[str, Any]) -> T:
    return make(kind, keys, context)


def _made(problems: list[Problem], key: str, new: Callable[[], T]) -> T | None:
    try:
        return new()
    except ConfigError as error:
        problems += [problem.under(key) for problem in error.details]
        return None
