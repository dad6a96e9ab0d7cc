"""Settings from which a search over an operator may start: how much it takes of which source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.operators import Operator
from evomerge.spaces._parameter_range import Range
from evomerge.spaces._starts import source_weights

_LINES = "lines_alpha"  # of the modifier that multiplies what is merged by the depth


def operator_starts(
    operator: Operator,
    settings: Mapping[str, Any],
    sources: Sequence[str],
    best_first: Sequence[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labels and settings: what the operator's paper says, and then usual weights at it.

    A source alone is whole: what is dropped of several, lest they interfere, is not dropped of one.

    Args:
        settings: of the space: name to a `Range`, or to a fixed setting.
        sources: names, in order.
        best_first: some of them, by how they did alone.
    """
    free = {name for name, setting in settings.items() if isinstance(setting, Range)}
    published = {
        name: value
        for name, value in operator.paper_defaults.items()
        if name in free and isinstance(value, bool | int | float | str)
    }
    yield f"{operator.name}, paper's defaults", published
    whole = {name: bound.default for name, bound in operator.per_source.items() if name in free}
    for label, weights in source_weights(sources, best_first):
        in_order = {source: weights[source] for source in sources}
        taken = _pair(operator, in_order) if operator.on == "pair" else {}
        taken = taken or _taken(operator, settings, in_order)
        if taken.keys() and taken.keys() <= free:
            alone = sum(map(bool, weights.values())) == 1
            yield label, {**published, **(whole if alone else {}), **taken}


def _pair(operator: Operator, weights: Mapping[str, float]) -> dict[str, Any]:
    """The share of the second model: of the one source, beside the base, or of two sources."""
    if operator.weights is None:
        return {}
    *first, last = weights.values()
    return {operator.weights: last / math.fsum(weights.values()) if first else last}


def _taken(
    operator: Operator, settings: Mapping[str, Any], weights: Mapping[str, float]
) -> dict[str, Any]:
    """Weights, or a scale of all, at which so much is taken; empty where neither varies."""
    own = {name: setting for name, setting in settings.items() if name in operator.parameters}
    free = {name for name, setting in own.items() if isinstance(setting, Range)}
    average = operator.takes_average({k: v for k, v in own.items() if k not in free})
    total = math.fsum(weights.values())
    scale = next((name for name in (operator.scale, _LINES) if name in free), None)
    fixed = _product(own.get(str(name)) for name in (operator.weights, operator.scale))
    scales: dict[str, Any] = {}
    if scale is not None:
        scales = {scale: total if average else 1.0}
        if scale == _LINES and "lines_beta" in free:
            scales["lines_beta"] = 0.0  # the same at any depth
    if operator.weights in free:
        unit = 1.0 if average else total if operator.on == "weights" else fixed
        return {str(operator.weights): {s: w / unit for s, w in weights.items()}, **scales}
    equal = len(set(weights.values())) == 1
    if scale is None or not equal or (operator.weights is None and operator.scale is None):
        return {}
    one = next(iter(weights.values())) / fixed
    return {**scales, scale: total if average else one}


def _product(settings: Any) -> float:
    """Of the fixed numbers among settings, as far as one can divide by it."""
    numbers = [s for s in settings if isinstance(s, int | float) and not isinstance(s, bool)]
    return math.prod(numbers) or 1.0
