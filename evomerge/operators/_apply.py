"""Run an operator on the tensors of one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.operators._operator import Bound, Operator, get

Nested = Tensor | Sequence[Any]


def combine(
    operator: Operator,
    base: Tensor | None,
    sources: Sequence[Tensor],
    *,
    per_source: Mapping[str, Sequence[float]],
    shared: Mapping[str, Any],
    uniforms: Tensor | None = None,
) -> Tensor:
    """One merged tensor, float32.

    Args:
        base: (*shape) or None where the base has no such tensor.
        sources: M tensors (*shape), those that have the tensor.
        per_source: (M,) values for every per-source parameter of the operator.
        shared: the operator's other parameters, validated.
        uniforms: (M, *shape) in [0, 1), for operators that draw random numbers.

    Raises:
        OperatorError: too few or too many tensors for the operator.

    Source: rules R1 (float32 throughout) and R8 (what to do where a tensor is missing).
    """
    weights_M = [source.to(torch.float32) for source in sources]
    if operator.on == "pair":
        pair = weights_M if len(weights_M) >= 2 or base is None else [base.float(), *weights_M]
        if len(pair) == 1:
            return pair[0]  # R8: the other model lacks this tensor
        if len(pair) != 2:
            raise OperatorError(f"{operator.name} merges two models, got {len(pair)}")
        return operator.function(torch.stack(pair), **shared)
    if operator.on == "task_vectors" and base is None:
        fallback = get("linear")  # R8 (b)
        weight = per_source.get("weight", [1.0] * len(weights_M))
        return combine(
            fallback, None, weights_M, per_source={"weight": weight}, shared={"normalize": True}
        )
    stacked = torch.stack(weights_M)
    columns = {
        name: torch.tensor(per_source[name], dtype=torch.float32, device=stacked.device)
        for name in operator.per_source
    }
    extra = {"uniforms": uniforms} if operator.random else {}
    if operator.on == "weights":
        return operator.function(stacked, **columns, **shared, **extra)
    assert base is not None
    origin = base.to(torch.float32)
    return origin + operator.function(stacked.sub_(origin), **columns, **shared, **extra)


def apply(
    name: str,
    *,
    base: Nested | None = None,
    sources: Sequence[Nested],
    uniforms: Nested | None = None,
    seed: int = 0,
    **parameters: Any,
) -> Tensor:
    """Merge the tensors of one name with one operator.

    Args:
        name: as in ``evomerge list operators``.
        base: (*shape) tensor or nested list; needed by operators on task vectors.
        sources: M tensors or nested lists (*shape).
        uniforms: (M, *shape) in [0, 1), in place of the numbers drawn from ``seed``.
        seed: of the random numbers that some operators draw.
        parameters: the operator's own. A per-source one is a number for all sources or a list
            of M, under its name or its plural (``weight`` or ``weights``).

    Returns:
        (*shape) float32.

    Raises:
        ConfigError: no such operator, or a shared parameter outside its domain.
        OperatorError: shapes differ, or a per-source parameter outside its domain.
    """
    operator = get(name)
    origin = None if base is None else torch.as_tensor(base, dtype=torch.float32)
    stack = [torch.as_tensor(source, dtype=torch.float32) for source in sources]
    _check_tensors(operator, origin, stack)
    count = len(stack)
    per_source = {
        key: _column(key, bound, parameters, count) for key, bound in operator.per_source.items()
    }
    shared = operator.validate_shared(parameters, f"{name}.")
    drawn: Tensor | None = None
    if operator.random and uniforms is None:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.rand((count, *stack[0].shape), generator=generator)
    elif uniforms is not None:
        drawn = torch.as_tensor(uniforms, dtype=torch.float32)
        if drawn.shape != (count, *stack[0].shape):
            raise OperatorError(f"{name}: uniforms must be {(count, *stack[0].shape)}")
    return combine(operator, origin, stack, per_source=per_source, shared=shared, uniforms=drawn)


def _check_tensors(operator: Operator, base: Tensor | None, sources: list[Tensor]) -> None:
    if not sources:
        raise OperatorError(f"{operator.name}: at least one source is needed")
    if operator.on == "task_vectors" and base is None:
        raise OperatorError(f"{operator.name}: a base is needed")
    shapes = [tuple(t.shape) for t in ([] if base is None else [base]) + sources]
    if len(set(shapes)) > 1:
        raise OperatorError(f"{operator.name}: shapes differ: {', '.join(map(str, shapes))}")


def _column(key: str, bound: Bound, parameters: dict[str, Any], count: int) -> list[float]:
    """The (M,) values of one per-source parameter, taken out of ``parameters``."""
    given = [name for name in (key, f"{key}s") if name in parameters]
    if len(given) > 1:
        raise OperatorError(f"{key} and {key}s are the same parameter: give one")
    value = parameters.pop(given[0]) if given else bound.default
    column = list(value) if isinstance(value, (list, tuple, Tensor)) else [value] * count
    column = [v.item() if isinstance(v, Tensor) else v for v in column]
    if len(column) != count:
        raise OperatorError(f"{key}: {len(column)} values for {count} sources")
    for item in column:
        if problem := bound.problem(item):
            raise OperatorError(f"{key}: {problem}")
    return [float(item) for item in column]
