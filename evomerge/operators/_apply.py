"""Run an operator on the tensors of one name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.passes import added, all_finite
from evomerge.kernels.stack import Merged, Stack, Tiles
from evomerge.kernels.threads import on_one_thread
from evomerge.operators import _modifiers
from evomerge.operators._bound import Bound
from evomerge.operators._operator import Operator, get

Out = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of one tensor.

    Attributes:
        per_source: (M,) values for every per-source parameter of the operator.
        shared: its other parameters, validated.
    """

    per_source: Mapping[str, Sequence[float]]
    shared: Mapping[str, Any]

    def of(self, names: Sequence[str] | frozenset[str]) -> dict[str, Any]:
        """Those called ``names``."""
        columns = {key: tuple(value) for key, value in self.per_source.items() if key in names}
        return columns | {key: value for key, value in self.shared.items() if key in names}


def combine(operator: Operator, x: Stack, settings: Settings, out: Out) -> None:
    """Merge a stack, tile by tile.

    Args:
        operator: what merges.
        x: the sources' tensors, and the base's where it has one.
        settings: of this tensor.
        out: takes the flat index of the first element and (n,) float32, which it may overwrite;
            called in order.

    Raises:
        OperatorError: too few or too many tensors for the operator, or inputs that are not finite.

    Source: rules R1 (float32 throughout) and R8 (what to do where a tensor is missing).
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
    """What the operator gives, to be added to the base if its stack holds task vectors."""
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
    function_parameters = [name for name in operator.parameters if name not in _modifiers.NAMES]
    parameters = settings.of(function_parameters)
    if operator.on == "task_vectors":
        factor = _modifiers.depth_factor(x, **settings.of(_modifiers.LAST))
        x = _modifiers.modified(x, **settings.of(_modifiers.NAMES - _modifiers.LAST))
        return _whole_to_tiles(x, operator.function(x, **parameters)), factor
    if operator.sources is not None and x.count < operator.sources:
        return _first(x), 1.0
    return _whole_to_tiles(x, operator.function(x, **parameters)), 1.0


def _first(x: Stack) -> Tiles:
    """The first tensor as it is."""
    return x.each(lambda tile: tile.values[0])


def _whole_to_tiles(x: Stack, merged: Merged) -> Tiles:
    """A result that was computed at once, handed out in tiles."""
    if isinstance(merged, Tiles):
        return merged
    flat = merged.reshape(-1)
    # of the inputs only the base is still of use
    rest = x.inputs[:1] if x.base is None else [x.base]
    plain = replace(x, inputs=rest, changes=(), by_row=False)
    return Tiles(plain, lambda tile: flat[tile.start : tile.start + tile.values.shape[-1]])


def apply(
    name: str,
    *,
    base: Any = None,
    sources: Sequence[Any],
    uniforms: Any = None,
    seed: int = 0,
    role: str = "other",
    depth: float | None = None,
    **parameters: Any,
) -> Any:
    """Merge the tensors of one name with one operator.

    Args:
        name: as in ``evomerge list operators``.
        base: (*shape) tensor or nested list; needed by operators on task vectors.
        sources: M tensors or nested lists (*shape).
        uniforms: (M, *shape) in [0, 1), in place of the numbers drawn from ``seed``.
        seed: of the random numbers that some operators draw.
        role: the tensor's, as in a recipe: operators on matrices treat embeddings otherwise.
        depth: of the tensor's block, 0 in the first and 1 in the last; None outside the blocks.
        parameters: the operator's own. A per-source one is a number for all sources or a list
            of M, under its name or its plural (``weight`` or ``weights``); a group of those with
            a common prefix may be given as a mapping (``compeft={"density": 0.2}``); recorded
            statistics are a list of M tensors, or None, under their kind (``fisher=[...]``).

    A whole model is merged at once, for operators of global scope, if base and sources are
    mappings from names to tensors.

    Returns:
        (*shape) float32; a mapping of these for mappings.

    Raises:
        ConfigError: no such operator, or a shared parameter outside its domain.
        OperatorError: shapes differ, or a per-source parameter outside its domain.
    """
    operator = get(name)
    if sources and isinstance(sources[0], Mapping):
        if uniforms is not None:
            raise OperatorError("uniforms: give them with one tensor, not with a whole model")
        return _apply_to_model(operator, base, sources, seed, parameters)
    statistics = parameters.pop(operator.statistics, None) if operator.statistics else None
    tensors = [_tensor(source) for source in sources]
    stack = Stack(
        tensors,
        None if base is None else _tensor(base),
        name=name,
        labels=[str(number) for number in range(len(tensors))],
        role=role,
        depth=depth,
        statistics=_statistics(statistics or []),
        seed=seed,
        given_uniforms=None if uniforms is None else _tensor(uniforms),
    )
    _check(operator, stack)
    return _apply(operator, stack, _settings(operator, parameters, len(tensors)))


def _apply(operator: Operator, stack: Stack, settings: Settings) -> Tensor:
    merged = torch.empty(stack.size)

    def out(start: int, values: Tensor) -> None:
        merged[start : start + values.numel()] = values

    on_one_thread(lambda: combine(operator, stack, settings, out))
    if not all_finite(merged):
        raise OperatorError(f"{operator.name} gave values that are not finite")
    return merged.view(stack.shape)


def _apply_to_model(
    operator: Operator,
    base: Mapping[str, Any] | None,
    sources: Sequence[Mapping[str, Any]],
    seed: int,
    parameters: dict[str, Any],
) -> dict[str, Tensor]:
    statistics = parameters.pop(operator.statistics, None) if operator.statistics else None
    stacks: list[Stack] = []
    cache: dict[Any, Any] = {}
    others = [*sources[1:], *([] if base is None else [base])]
    if any(other.keys() != sources[0].keys() for other in others):
        raise OperatorError("base and sources must have tensors of the same names")
    for key in sources[0]:
        stacks.append(
            Stack(
                [_tensor(source[key]) for source in sources],
                None if base is None else _tensor(base[key]),
                name=key,
                labels=[str(number) for number in range(len(sources))],
                statistics=_statistics([s.get(key) for s in statistics or []]),
                seed=seed,
                model=lambda: deltas,
                model_cache=cache,
            )
        )
        _check(operator, stacks[-1])
    deltas = [replace(stack, deltas=stack.base is not None) for stack in stacks]
    settings = _settings(operator, parameters, len(sources))
    return {stack.name: _apply(operator, stack, settings) for stack in stacks}


def _tensor(values: Any) -> Tensor:
    found = torch.as_tensor(values).detach()
    return found if found.is_floating_point() else found.float()


def _statistics(recorded: Sequence[Any]) -> list[Tensor | None]:
    return [None if values is None else _tensor(values) for values in recorded]


def _settings(operator: Operator, parameters: dict[str, Any], count: int) -> Settings:
    for group in [key for key, value in parameters.items() if isinstance(value, Mapping)]:
        members = parameters.pop(group)
        parameters |= {f"{group}_{key}": value for key, value in members.items()}
    columns = {
        key: _column(key, bound, parameters, count) for key, bound in operator.per_source.items()
    }
    return Settings(columns, operator.validate_shared(parameters, operator.name))


def _check(operator: Operator, x: Stack) -> None:
    if not x.inputs:
        raise OperatorError(f"{operator.name}: at least one source is needed")
    if operator.on == "task_vectors" and x.base is None:
        raise OperatorError(f"{operator.name}: a base is needed")
    if operator.statistics and len(x.statistics) != x.count:
        raise OperatorError(f"{operator.name}: needs {operator.statistics}, one a source")
    shapes = [tuple(t.shape) for t in ([] if x.base is None else [x.base]) + [*x.inputs]]
    if len(set(shapes)) > 1:
        raise OperatorError(f"{operator.name}: shapes differ: {', '.join(map(str, shapes))}")
    drawn = x.given_uniforms
    if drawn is not None and tuple(drawn.shape) != (x.count, *x.shape):
        raise OperatorError(f"{operator.name}: uniforms must be {(x.count, *x.shape)}")


def _column(key: str, bound: Bound, parameters: dict[str, Any], count: int) -> list[float]:
    """The (M,) values of one per-source parameter, taken out of ``parameters``."""
    given = [name for name in (key, f"{key}s") if name in parameters]
    if len(given) > 1:
        raise OperatorError(f"{key} and {key}s are the same parameter: give one")
    value = parameters.pop(given[0]) if given else bound.default
    column = list(value) if isinstance(value, (Sequence, Tensor, np.ndarray)) else [value] * count
    column = [v.item() if isinstance(v, (Tensor, np.generic)) else v for v in column]
    if len(column) != count:
        raise OperatorError(f"{key}: {len(column)} values for {count} sources")
    for item in column:
        if problem := bound.problem(item):
            raise OperatorError(f"{key}: {problem}")
    return [float(item) for item in column]
