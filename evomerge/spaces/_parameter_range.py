"""The range of an operator's parameter, and how finely it varies over sources, blocks and roles."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import ConfigDict, field_validator

from evomerge.errors import shown
from evomerge.keys import Keys
from evomerge.recipes import ROLES
from evomerge.types import Gene, Parameter

Role = Literal["attention", "mlp", "norm", "embedding", "head", "other"]


_LARGEST_INT = 2**53  # numbers between 0 and 1 stand for these, as floats
_SAME = 1e-9  # relative: what rounding of logits and logarithms leaves
_LEAST_LOG = 1.2e-38  # float32's least normal number


class Granularity(Keys):
    """How finely a parameter varies over the model.

    Attributes:
        layers: ``all`` blocks share a value, ``each`` has its own, or the number of groups of
            neighbouring blocks.
        roles: roles with a value of their own, ``other`` standing for the rest; empty: all
            roles share.
    """

    layers: Literal["all", "each"] | int = "all"
    roles: tuple[Role, ...] = ()

    @field_validator("layers")
    @classmethod
    def _at_least_one(cls, layers: str | int) -> str | int:
        if isinstance(layers, int) and layers < 1:
            raise ValueError("must be 'each', 'all' or a number of groups from 1 on")
        return layers

    @field_validator("roles")
    @classmethod
    def _complete(cls, roles: tuple[Role, ...]) -> tuple[Role, ...]:
        if len(set(roles)) < len(roles):
            raise ValueError("a role is named twice")
        if roles and "other" not in roles and len(roles) < len(ROLES) - 1:
            raise ValueError("add 'other', or some tensors have no value")
        return roles

    def groups(self, layers: int) -> int:
        """Number of groups of blocks in a model of ``layers`` blocks."""
        if self.layers == "all":
            return 1
        return layers if self.layers == "each" else min(int(self.layers), layers)


class Range(Keys):
    """What a parameter may be.

    Attributes:
        low, high: inclusive bounds of a number, finite; of an ``int``, with one between them.
        initial: where the search starts; the middle of the range by default.
        scale: ``log`` searches the logarithm, ``logit`` the logarithm of x / (1 - x): the gene
            is that logarithm.
        kind: ``float`` or ``int``.
        choices: in place of bounds: the words, or both true and false, to choose from.
        simplex: the sources' values add up to 1. Genes and bounds, -4 to 4 by default, are
            logits; that of the first source is 0.
        granularity: in place of the space's.

    ``low``, ``high`` and ``initial`` may be ``sources``, the number of sources, or ``1/sources``;
    the start is then moved within the bounds.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # `problems` says more of them

    low: float | str | None = None
    high: float | str | None = None
    initial: float | bool | str | None = None
    scale: Literal["linear", "log", "logit"] = "linear"
    kind: Literal["float", "int"] = "float"
    choices: tuple[bool | str, ...] = ()
    simplex: bool = False
    granularity: Granularity | None = None

    @field_validator("choices", mode="before")
    @classmethod
    def _words_or_switch(cls, choices: Any) -> Any:
        if not isinstance(choices, (list, tuple)):
            return choices
        words = all(isinstance(choice, str) for choice in choices)
        # decoding a bool cannot tell choices of true alone from choices of both
        switch = all(isinstance(choice, bool) for choice in choices) and len(set(choices)) == 2
        if not (words or switch):
            raise ValueError("words, or true and false; for numbers give low and high")
        if len(set(choices)) < len(choices):
            raise ValueError("a choice is named twice")
        return choices

    def of(self, sources: int) -> Range:
        """The range with numbers in place of ``sources`` and ``1/sources``."""
        if self.choices:
            return self
        words = {"sources": float(sources), "1/sources": 1 / sources}
        written = {"low": self.low, "high": self.high, "initial": self.initial}
        if self.simplex:
            defaults = {"low": -4.0, "high": 4.0, "initial": 0.0}
            written = {key: defaults[key] if v is None else v for key, v in written.items()}
        numbers: dict[str, Any] = {
            key: words.get(v, v) if isinstance(v, str) else v for key, v in written.items()
        }
        if numbers != written and all(type(value) in (int, float) for value in numbers.values()):
            numbers["initial"] = min(max(numbers["initial"], numbers["low"]), numbers["high"])
        return self.model_copy(update=numbers)

    def problems(self) -> list[str]:
        """What is wrong with the bounds."""
        if self.choices:
            return self._problems_of_choices()
        values = {"low": self.low, "high": self.high, "initial": self.initial}
        if self.low is None or self.high is None:
            return ["needs low and high, or choices"]
        wrong = [
            f"{name}: expected a number, got {shown(value)}"
            for name, value in values.items()
            if isinstance(value, (bool, str))
        ]
        wrong += [
            f"{name}: expected a finite number, got {value}"
            for name, value in values.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        return wrong or [*self._problems_of_bounds(), *self._problems_of_scale()]

    def _problems_of_choices(self) -> list[str]:
        problems = []
        # 1.0 equals True, and is none
        same = [c for c in self.choices if type(c) is type(self.initial) and c == self.initial]
        if self.initial is not None and not same:
            problems.append(f"initial {shown(self.initial)} is none of the choices")
        if self.simplex:
            problems.append("choices do not add up to 1. Remove simplex")
        return problems

    def _problems_of_bounds(self) -> list[str]:
        low, high = self.bounds
        if low > high:
            return [f"low {low:g} lies above high {high:g}"]
        if self.kind == "int" and max(-low, high) > _LARGEST_INT:
            return [f"an int has bounds up to 2^53, got {low:g} and {high:g}"]
        if self.kind == "int" and math.ceil(low) > math.floor(high):
            return [f"no integer lies between low {low:g} and high {high:g}"]
        initial = self.initial
        if isinstance(initial, (int, float)) and not low <= initial <= high:
            return [f"initial {shown(initial)} lies outside [{low:g}, {high:g}]"]
        return []

    def _problems_of_scale(self) -> list[str]:
        low, high = self.bounds
        problems = []
        if self.scale == "log" and 0 < low < _LEAST_LOG:
            problems.append(f"a log scale needs a low of at least {_LEAST_LOG:g}, got {low:g}")
        if self.scale == "log" and low <= 0:
            problems.append(f"a log scale needs a positive low, got {low:g}")
        if self.scale == "logit" and not 0 < low <= high < 1:
            problems.append(f"a logit scale needs bounds within (0, 1), got {low:g} and {high:g}")
        if self.kind == "int" and (self.simplex or self.scale == "logit"):
            problems.append("logits are no integers. Remove kind")
        if self.simplex and self.scale != "linear":
            problems.append("the genes of a simplex are logits already. Remove scale")
        return problems

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high of a range in numbers."""
        assert isinstance(self.low, (int, float)) and isinstance(self.high, (int, float))
        return float(self.low), float(self.high)

    def extremes(self) -> list[Any]:
        """The least and the greatest value that a recipe may have, or all choices."""
        if self.choices:
            return list(self.choices)
        if self.simplex:
            return [1e-6, 1.0]
        return [value for value in (self.low, self.high) if isinstance(value, (int, float))]

    def _start(self) -> float | bool | str:
        return self.choices[0] if self.initial is None else self.initial

    def parameter(self, name: str) -> Parameter:
        """A gene over this range, after `of`."""
        if self.choices:
            if set(self.choices) <= {True, False}:
                return Parameter(name, "bool", self._start())
            words = tuple(str(choice) for choice in self.choices)
            return Parameter(name, "choice", str(self._start()), choices=words)
        low, high = self.bounds
        initial = None if self.initial is None else float(self.initial)
        if self.scale == "logit":
            low, high = _logit(low), _logit(high)
            initial = None if initial is None else _logit(initial)
        scale: Literal["linear", "log"] = "log" if self.scale == "log" else "linear"
        if initial is None:
            initial = Parameter(name, self.kind, 0.0, low=low, high=high, scale=scale).from_unit(
                0.5
            )
        if self.kind == "float":
            return Parameter(name, "float", initial, low=low, high=high, scale=scale)
        least, most = math.ceil(low), math.floor(high)
        start = min(max(round(initial), least), most)
        return Parameter(name, "int", start, low=least, high=most, scale=scale)

    def value(self, gene: Gene) -> Gene:
        """The value in a recipe that a gene stands for."""
        if self.scale != "logit" or self.choices:
            return gene
        low, high = self.bounds
        return min(max(1 / (1 + math.exp(-float(gene))), low), high)

    def is_typed(self, value: Any) -> bool:
        """Whether it is a choice, or a number where those are searched."""
        if self.choices:
            return any(type(one) is type(value) and one == value for one in self.choices)
        return isinstance(value, int | float) and not isinstance(value, bool)

    def refusal(self, value: Any, *, relative_to: float | None = 1.0) -> str | None:
        """Why no gene stands for a value, or None.

        Args:
            relative_to: as for `gene`; None where the first source of a simplex has no value.
        """
        if not self.is_typed(value):
            expected = f"one of {list(self.choices)}" if self.choices else "a number"
            return f"expected {expected}, got {shown(value)}"
        if self.choices:
            return None
        if relative_to is None:
            return "needs a value of every source: they add up to 1"
        low, high = self.bounds
        number, least, most = float(value), low, high
        if self.simplex:
            number, least, most = (
                number / (relative_to or _LEAST_LOG),
                math.exp(low),
                math.exp(high),
            )
        if not least - _SAME * abs(least) <= number <= most + _SAME * abs(most):
            ratio = f" is {number:g} of the first source's, which" if self.simplex else ""
            return f"{value:g}{ratio} lies outside [{least:g}, {most:g}]"
        if self.kind == "int" and number != int(number):
            return f"expected a whole number, got {number:g}"
        return None

    def gene(self, value: Gene, *, relative_to: float = 1.0) -> Gene:
        """The gene that stands for a value, or for the nearest one within the bounds.

        Args:
            relative_to: the value of the first source, whose logit is 0 in a simplex.
        """
        if self.choices:
            return next((choice for choice in self.choices if choice == value), self._start())
        low, high = self.bounds
        number = float(value)
        if self.simplex:
            ratio = max(number, _LEAST_LOG) / max(relative_to, _LEAST_LOG)
            return min(max(math.log(ratio), low), high)
        number = min(max(number, low), high)
        if self.kind == "int":
            return min(max(round(number), math.ceil(low)), math.floor(high))
        return _logit(number) if self.scale == "logit" else number


def softmax(logits: list[float]) -> list[float]:
    """(M,) positive numbers that add up to 1."""
    parts = [math.exp(logit - max(logits)) for logit in logits]
    return [part / math.fsum(parts) for part in parts]


def _logit(value: float) -> float:
    return math.log(value / (1 - value))
