"""`evomerge.apply`: an operator on tensors in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.passes import all_finite
from evomerge.kernels.stack import Stack
from evomerge.kernels.threads import on_one_thread
from evomerge.operators._combine import Settings, combine
from evomerge.operators._modifiers import Bound
from evomerge.operators._operator import Operator, get


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
    """Merge tensors with one operator.

    Tensors are anything that ``torch.as_tensor`` takes, of any float dtype; all of one call have
    one shape. Task vectors and results are float32.

    Args:
        name: of the operator, as in ``evomerge list operators``.
        base: (*shape); operators on task vectors need one.
        sources: M tensors, (*shape).
        uniforms: (M, *shape) in [0, 1), in place of random numbers drawn from ``seed``.
        seed: of the random numbers that some operators draw.
        role: the tensor's, as in a recipe: operators on matrices treat an ``embedding`` and a
            ``head`` otherwise.
        depth: of the tensor's block, 0 in the first and 1 in the last; None outside the blocks.
        parameters: the operator's own. A per-source one is a number for all sources or a list
            of M, under its name or its plural (``weight`` or ``weights``); parameters with a
            common prefix may be given as a mapping (``compeft={"density": 0.2}``); recorded
            statistics are a list of M tensors, or None, under their kind (``fisher=[...]``).

    For operators that look at a whole model (``scope="global"``), base, sources and statistics
    may be mappings from tensor names to tensors.

    Returns:
        (*shape) float32, newly allocated; for mappings a dict of these.

    Raises:
        ConfigError: no such operator, an unknown parameter, or a shared one outside its domain.
        OperatorError: shapes differ, base or statistics are missing, a per-source parameter is
            outside its domain or does not have M values, or values are not finite.

    Example:
        >>> base, math, code = [1.0, 2.0], [3.0, 2.5], [0.5, 3.0]
        >>> apply("ties", base=base, sources=[math, code], density=0.5, weights=[1.0, 0.5])
        tensor([3., 3.])
    """
    operator = get(name)
    recorded = parameters.pop(operator.statistics, None) or [] if operator.statistics else []
    if not (sources and isinstance(sources[0], Mapping)):
        drawn = None if uniforms is None else _tensor(uniforms)
        own = {"name": name, "seed": seed, "role": role, "depth": depth, "fixed_uniforms": drawn}
        stack = _stack(operator, sources, base, recorded, **own)
        return _apply(operator, stack, _settings(operator, parameters, len(sources)))
    if uniforms is not None:
        raise OperatorError("uniforms: give them with one tensor, not with a whole model")
    if any(model.keys() != sources[0].keys() for model in (*sources, base) if model is not None):
        raise OperatorError("base and sources must have tensors of the same names")
    task_vectors: list[Stack] = []
    shared: dict[str, Any] = {"seed": seed, "model": lambda: task_vectors, "model_cache": {}}
    stacks = [
        _stack(
            operator,
            [source[key] for source in sources],
            None if base is None else base[key],
            [statistics.get(key) for statistics in recorded],
            name=key,
            **shared,
        )
        for key in sources[0]
    ]
    task_vectors += [replace(stack, deltas=stack.base is not None) for stack in stacks]
    settings = _settings(operator, parameters, len(sources))
    return {stack.name: _apply(operator, stack, settings) for stack in stacks}


def _stack(
    operator: Operator, sources: Sequence[Any], base: Any, recorded: Sequence[Any], **options: Any
) -> Stack:
    x = Stack(
        [_tensor(source) for source in sources],
        None if base is None else _tensor(base),
        labels=[str(number) for number in range(len(sources))],
        statistics=[None if values is None else _tensor(values) for values in recorded],
        **options,
    )
    if not x.inputs:
        raise OperatorError(f"{operator.name}: at least one source is needed")
    if operator.on == "task_vectors" and x.base is None:
        raise OperatorError(f"{operator.name}: a base is needed")
    if operator.statistics and len(x.statistics) != x.count:
        raise OperatorError(f"{operator.name}: needs {operator.statistics}, one a source")
    shapes = [tuple(t.shape) for t in ([] if x.base is None else [x.base]) + [*x.inputs]]
    if len(set(shapes)) > 1:
        raise OperatorError(f"{operator.name}: shapes differ: {', '.join(map(str, shapes))}")
    drawn = x.fixed_uniforms
    if drawn is not None and tuple(drawn.shape) != (x.count, *x.shape):
        raise OperatorError(f"{operator.name}: uniforms must be {(x.count, *x.shape)}")
    return x


def _tensor(values: Any) -> Tensor:
    tensor = torch.as_tensor(values).detach()
    return tensor if tensor.is_floating_point() else tensor.float()


def _settings(operator: Operator, parameters: dict[str, Any], count: int) -> Settings:
    for group in [key for key, value in parameters.items() if isinstance(value, Mapping)]:
        members = parameters.pop(group)
        parameters |= {f"{group}_{key}": value for key, value in members.items()}
    columns = {
        key: _column(key, bound, parameters, count) for key, bound in operator.per_source.items()
    }
    return Settings(columns, operator.validate_shared(parameters, operator.name))


def _column(key: str, bound: Bound, parameters: dict[str, Any], count: int) -> list[float]:
    """The (M,) values of one per-source parameter, taken out of ``parameters``."""
    spellings = [name for name in (key, f"{key}s") if name in parameters]
    if len(spellings) > 1:
        raise OperatorError(f"{key} and {key}s are the same parameter: give one")
    value = parameters.pop(spellings[0]) if spellings else bound.default
    column = list(value) if isinstance(value, (Sequence, Tensor, np.ndarray)) else [value] * count
    column = [v.item() if isinstance(v, (Tensor, np.generic)) else v for v in column]
    if len(column) != count:
        raise OperatorError(f"{key}: {len(column)} values for {count} sources")
    for item in column:
        if problem := bound.problem(item):
            raise OperatorError(f"{key}: {problem}")
    return [float(item) for item in column]


def _apply(operator: Operator, stack: Stack, settings: Settings) -> Tensor:
    merged = torch.empty(stack.size)

    def out(start: int, values: Tensor) -> None:
        merged[start : start + values.numel()] = values

    on_one_thread(lambda: combine(operator, stack, settings, out))
    if not all_finite(merged):
        raise OperatorError(f"{operator.name} gave values that are not finite")
    return merged.view(stack.shape)
