"""What an operator says about itself, and the decorator with which it says so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """

    name: str
    function: Callable[..., Tensor]
    on: On
    per_source: Mapping[str, Bound]
    textbook: Mapping[str, Any]
    paper: str
    shared: Mapping[str, Any] = field(default_factory=dict)

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
            valid = registry.validate_options(_shared_part(self.function), given, where)
        except ConfigError as error:
            problems = [
                problem.split(" Did you mean")[0] + registry.did_you_mean(key, self.parameters)
                if "unknown key" in problem
                and (key := problem.split(":")[0].rpartition(".")[2]) is not None
                else problem
                for problem in error.problems
            ]
            raise ConfigError(problems) from None
        return valid


_PARTS: dict[Callable[..., Tensor], Callable[..., Any]] = {}


def _shared_part(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """A stand-in whose keyword-only signature is the operator's shared parameters."""
    return _PARTS[function]


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
        signature = inspect.signature(function, eval_str=True)
        shared = {
            p.name: p
            for p in signature.parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in {*own, "uniforms"}
        }

        def part() -> None: ...

        part.__name__ = function.__name__
        part.__signature__ = signature.replace(parameters=list(shared.values()))  # type: ignore[attr-defined]
        _PARTS[function] = part
        defaults = {name: p.default for name, p in shared.items()}
        return Operator(function.__name__, function, on, own, dict(textbook or {}), paper, defaults)

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
