"""An operator carried out on a stack, tile by tile: what `apply` and the merging of files share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.passes import added
from evomerge.kernels.stack import Stack, Tiles
from evomerge.operators._modifiers import NAMES, modify
from evomerge.operators._operator import Operator, get

Out = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of an operator for one tensor.

    Attributes:
        per_source: (M,) values of every per-source parameter.
        shared: the other parameters, validated.
    """

    per_source: Mapping[str, Sequence[float]]
    shared: Mapping[str, Any]

    def of(self, names: Collection[str]) -> dict[str, Any]:
        """The values of some parameters."""
        columns = {key: tuple(value) for key, value in self.per_source.items() if key in names}
        return columns | {key: value for key, value in self.shared.items() if key in names}


def combine(operator: Operator, x: Stack, settings: Settings, out: Out) -> None:
    """Merge a stack, tile by tile.

    Args:
        operator: how to merge.
        x: the tensors of the sources, and of the base if there is one.
        settings: for this tensor.
        out: receives the flat index of the first element of each part of the result, and the part,
            (n,) float32, which it may overwrite; called in order.

    Raises:
        OperatorError: too many tensors for the operator, or inputs that are not finite.

    Source: rules R1 (float32 throughout) and R8 (missing tensors).
    """
    if x.size == 0:
        return
    merged, factor = _merged(operator, x, settings)
    if merged.at_once is not None:
        for start, stop in merged.stack.cuts_at():
            out(start, merged.at_once(start, stop, factor))
        return
    adds = merged.stack.deltas
    for tile in merged.stack.tiles(by_row=merged.by_row):
        values = merged.kernel(tile)
        if factor != 1:
            values = values * factor
        if adds and tile.base is not None:
            values = added(tile.base, values)
        out(tile.start, values.reshape(-1))


def _merged(operator: Operator, x: Stack, settings: Settings) -> tuple[Tiles, float]:
    """The operator's result and its factor; to be added to the base if it is of task vectors."""
    if operator.on == "pair":
        pair = x.inputs if x.count >= 2 or x.base is None else [x.base, *x.inputs]
        x = replace(x, inputs=pair, base=None, identity=("pair", *x.identity))
        if x.count == 1:
            return _first(x), 1.0  # R8: the other lacks this tensor
    if operator.sources is not None and x.count > operator.sources:
        raise OperatorError(f"{operator.name} merges {operator.sources} models, got {x.count}")
    in_space = settings.shared.get("space", "task_vector") == "task_vector"
    if operator.on == "task_vectors" or (operator.on == "either" and in_space):
        if x.base is not None:
            x = replace(x, deltas=True)
        elif operator.on == "task_vectors":
            weight = settings.per_source.get("weight", [1.0] * x.count)
            return _merged(get("linear"), x, Settings({"weight": weight}, {"normalize": True}))
    factor = 1.0
    if operator.on == "task_vectors":
        x, factor = modify(x, settings.of(NAMES))
    elif operator.sources is not None and x.count < operator.sources:
        return _first(x), 1.0
    own = settings.of([name for name in operator.parameters if name not in NAMES])
    merged = operator.function(x, **own)
    if isinstance(merged, Tiles):
        return merged, factor
    flat = merged.reshape(-1)
    # of the inputs only the base is still needed
    rest = x.inputs[:1] if x.base is None else [x.base]
    x = replace(x, inputs=rest, changes=(), by_row=False)
    return x.each(lambda t: flat[t.start : t.start + t.values.shape[-1]]), factor


def _first(x: Stack) -> Tiles:
    """The first tensor, unchanged."""
    return x.each(lambda tile: tile.values[0])
