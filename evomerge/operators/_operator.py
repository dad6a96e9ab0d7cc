"""What an operator says about itself, and the decorator with which it says so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from evomerge import registry
from evomerge.errors import ConfigError

On = Literal["weights", "task_vectors", "pair"]


@dataclass(frozen=True, slots=True)
class Bound:
    """The domain of a parameter of which every source has its own value.

    Attributes:
        default: used where a recipe gives none.
        above: exclusive lower bound.
        most: inclusive upper bound.
    """

    default: float
    above: float = float("-inf")
    most: float = float("inf")

    def problem(self, value: object) -> str | None:
        """Why a value is refused, or None."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"expected a number, got {value!r}"
        if not self.above < value <= self.most:
            return f"must lie in ({self.above:g}, {self.most:g}], got {value:g}"
        return None


@dataclass(frozen=True, slots=True)
class Operator:
    """A merge operator and what a planner must know of it.

    Attributes:
        on: what ``function`` receives first, always float32 and stacked as (M, *shape):
            ``weights`` of the sources, their ``task_vectors`` (source minus base; the result is
            added to the base), or a ``pair`` of weights.
        per_source: parameters that the function receives as (M,) float32.
        textbook: settings to use when nothing is known, as published.
        paper: where it is from.
        shared: defaults of the parameters that all sources share.
        options: every YAML key, per-source ones first, with the types of the shared ones.
    """

    name: str
    function: Callable[..., Tensor]
    on: On
    per_source: Mapping[str, Bound]
    textbook: Mapping[str, Any]
    paper: str
    shared: Mapping[str, Any]
    options: type[BaseModel]

    @property
    def random(self) -> bool:
        """Whether the function takes ``uniforms``, (M, *shape) in [0, 1)."""
        return "uniforms" in inspect.signature(self.function).parameters

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every YAML key, per-source ones first."""
        return (*self.per_source, *self.shared)

    def validate_shared(self, settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """The parameters that all sources share, defaults filled in.

        Raises:
            ConfigError: unknown keys and values outside their domain, all at once.
        """
        given = {key: value for key, value in settings.items() if key not in self.per_source}
        try:
            valid = self.options.model_validate(given)
        except ValidationError as error:
            raise ConfigError(registry.explain(error, where, self.options)) from None
        return {key: getattr(valid, key) for key in self.shared}


def operator(
    *,
    on: On,
    per_source: Mapping[str, Bound] | None = None,
    textbook: Mapping[str, Any] | None = None,
    paper: str,
) -> Callable[[Callable[..., Tensor]], Operator]:
    """Make the decorated function the operator of its file."""

    def wrap(function: Callable[..., Tensor]) -> Operator:
        own = dict(per_source or {})
        shared = [
            p
            for p in inspect.signature(function, eval_str=True).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in {*own, "uniforms"}
        ]
        # per-source keys are there to be suggested: `Bound.problem` checks their values
        fields: dict[str, Any] = {key: (Any, bound.default) for key, bound in own.items()}
        fields |= {
            p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in shared
        }
        name = function.__name__
        return Operator(
            name,
            function,
            on,
            own,
            dict(textbook or {}),
            paper,
            {p.name: p.default for p in shared},
            create_model(f"{name}_options", __config__=ConfigDict(extra="forbid"), **fields),
        )

    return wrap


def get(name: str) -> Operator:
    """The operator called ``name``.

    Raises:
        ConfigError: there is none; the message suggests the nearest.
    """
    found = getattr(registry.module("operators", name), name)
    if not isinstance(found, Operator):
        raise TypeError(f"evomerge/operators/{name}.py must define an @operator called {name}")
    return found
