"""The parameter space: which operator, at which settings, per source, layer and role.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.1 (merging in the parameter space).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from evomerge.errors import ConfigError
from evomerge.nouns import Genome, Parameter
from evomerge.operators import Operator, get
from evomerge.recipes import ROLES, Recipe
from evomerge.registry import did_you_mean, explain
from evomerge.spaces import Ground, Space

Role = Literal["attention", "mlp", "norm", "embedding", "head", "other"]


class Granularity(BaseModel):
    """How finely a parameter varies over the model.

    Attributes:
        layers: ``all`` blocks share a value, ``each`` has its own, or the number of groups of
            neighbouring blocks.
        roles: roles with a value of their own, ``other`` standing for the rest; empty: all
            roles share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class Range(BaseModel):
    """What a parameter may be.

    Attributes:
        low, high: inclusive bounds of a number, finite; of an ``int``, with one between them.
        initial: where the search starts; the middle of the range by default.
        scale: ``log`` searches the logarithm.
        kind: ``float`` or ``int``.
        choices: in place of bounds: the words, or both true and false, to choose from.
        granularity: in place of the space's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float | None = None
    high: float | None = None
    initial: float | bool | str | None = None
    scale: Literal["linear", "log"] = "linear"
    kind: Literal["float", "int"] = "float"
    choices: tuple[bool | str, ...] = ()
    granularity: Granularity | None = None

    @field_validator("choices", mode="before")
    @classmethod
    def _words_or_switch(cls, choices: Any) -> Any:
        if not isinstance(choices, (list, tuple)):
            return choices
        words = all(isinstance(choice, str) for choice in choices)
        # a gene of true alone could not be told from one of both
        switch = all(isinstance(choice, bool) for choice in choices) and len(set(choices)) == 2
        if not (words or switch):
            raise ValueError("words, or true and false; for numbers give low and high")
        if len(set(choices)) < len(choices):
            raise ValueError("a choice is named twice")
        return choices

    def problems(self) -> list[str]:
        """What is wrong with the bounds."""
        if self.choices:
            # 1.0 equals True, and is none
            same = [c for c in self.choices if type(c) is type(self.initial) and c == self.initial]
            if self.initial is not None and not same:
                return [f"initial {self.initial!r} is none of the choices"]
            return []
        if self.low is None or self.high is None:
            return ["needs low and high, or choices"]
        numbers = {"low": self.low, "high": self.high, "initial": self.initial}
        infinite = [
            f"{name}: expected a finite number, got {value}"
            for name, value in numbers.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if infinite:
            return infinite
        if self.low > self.high:
            return [f"low {self.low:g} lies above high {self.high:g}"]
        if self.kind == "int" and math.ceil(self.low) > math.floor(self.high):
            return [f"no integer lies between low {self.low:g} and high {self.high:g}"]
        found = []
        if self.scale == "log" and self.low <= 0:
            found.append(f"a log scale needs a positive low, got {self.low:g}")
        initial = self.initial
        if isinstance(initial, (bool, str)):
            found.append(f"initial: expected a number, got {initial!r}")
        elif initial is not None and not self.low <= initial <= self.high:
            found.append(f"initial {initial!r} lies outside [{self.low:g}, {self.high:g}]")
        return found

    def _start(self) -> float | bool | str:
        return self.choices[0] if self.initial is None else self.initial

    def parameter(self, name: str) -> Parameter:
        """One gene of this range."""
        if self.choices:
            if set(self.choices) <= {True, False}:
                return Parameter(name, "bool", self._start())
            words = tuple(str(choice) for choice in self.choices)
            return Parameter(name, "choice", str(self._start()), choices=words)
        assert self.low is not None and self.high is not None
        low, high = self.low, self.high
        gene = Parameter(name, self.kind, 0.0, low, high, self.scale)
        initial = gene.from_unit(0.5) if self.initial is None else float(self.initial)
        if self.kind == "float":
            return Parameter(name, "float", initial, low, high, self.scale)
        least, most = math.ceil(low), math.floor(high)
        start = min(max(round(initial), least), most)
        return Parameter(name, "int", start, least, most, self.scale)


class ParameterSpace(Space):
    """One or several operators with free parameters.

    Args:
        ground: models, depth, dtype and seed.
        operator: a name, or a list: then the operator is searched too.
        granularity: of all parameters that do not name their own.
        parameters: name to a `Range`, or to a fixed value.

    Raises:
        ConfigError: unknown parameters, empty ranges, values outside an operator's domain.
    """

    def __init__(
        self,
        ground: Ground,
        *,
        operator: str | list[str],
        granularity: Granularity | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self.ground = ground
        self.operators = (operator,) if isinstance(operator, str) else tuple(operator)
        self._granularity = granularity or Granularity()
        self._settings, problems = _settings(parameters or {})
        chosen = []
        for name in dict.fromkeys(self.operators):
            if self.operators.count(name) > 1:
                problems.append(f"operator: {name} is named twice")
            try:
                chosen.append(get(name))
            except ConfigError as error:
                problems += [f"operator: {problem}" for problem in error.problems]
        if not self.operators:
            problems.append("operator: name at least one")
        if chosen and len(chosen) == len(set(self.operators)):
            problems += _domain_problems(self._settings, chosen)
        if problems:
            raise ConfigError(problems)
        self._chosen = {o.name: o for o in chosen}
        self._layout = {
            name: self._genes(name, setting)
            for name, setting in self._settings.items()
            if isinstance(setting, Range)
        }
        genes = [gene for table in self._layout.values() for gene in table.values()]
        if len(self.operators) > 1:
            first = Parameter("operator", "choice", self.operators[0], choices=self.operators)
            genes.insert(0, first)
        if not genes:
            raise ConfigError("parameters: nothing varies. Give one of them low and high.")
        self.parameters = tuple(genes)

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`."""
        name = str(genome.genes["operator"]) if len(self.operators) > 1 else self.operators[0]
        operator = self._chosen[name]
        parameters = {
            key: self._table(key, genome) if isinstance(setting, Range) else setting
            for key, setting in self._settings.items()
            if key in operator.parameters
        }
        return self.ground.recipe(name, parameters)

    def _genes(self, name: str, span: Range) -> dict[tuple[str, str, int], Parameter]:
        """(source, role, group) to gene; an empty source or role is not told apart."""
        granularity = span.granularity or self._granularity
        groups = granularity.groups(self.ground.layers)
        per_source = any(name in o.per_source for o in self._chosen.values())
        table: dict[tuple[str, str, int], Parameter] = {}
        for source in self.ground.sources if per_source else ("",):
            for role in granularity.roles or ("",):
                for group in range(groups):
                    parts = [name, source, role, str(group) if groups > 1 else ""]
                    label = ".".join(part for part in parts if part)
                    table[source, role, group] = span.parameter(label)
        return table

    def _table(self, name: str, genome: Genome) -> Any:
        """The parameter's setting in a recipe, from the genes."""
        layers = self.ground.layers
        setting: dict[str, dict[str, list[Any]]] = {}
        groups = 1 + max(group for _, _, group in self._layout[name])
        for (source, role, group), gene in self._layout[name].items():
            row = setting.setdefault(source, {}).setdefault(role, [None] * layers)
            value = genome.genes[gene.name]
            for layer in range(layers):
                if layer * groups // layers == group:
                    row[layer] = value
        by_source = {source: by_role.get("", by_role) for source, by_role in setting.items()}
        return by_source.get("", by_source)


def _settings(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Ranges parsed, fixed values as they are, and what is wrong."""
    settings: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in parameters.items():
        if not isinstance(value, Mapping):
            settings[name] = value
            if isinstance(value, float) and not math.isfinite(value):
                problems.append(f"parameters.{name}: expected a finite number, got {value}")
            continue
        try:
            span = Range.model_validate(value)
        except ValidationError as error:
            problems += explain(error, f"parameters.{name}.", Range)
            continue
        problems += [f"parameters.{name}: {problem}" for problem in span.problems()]
        settings[name] = span
    return settings, problems


def _domain_problems(settings: Mapping[str, Any], operators: list[Operator]) -> list[str]:
    """Parameters that no operator has, and bounds that an operator refuses."""
    problems = []
    for name, setting in settings.items():
        path = f"parameters.{name}"
        owners = [o for o in operators if name in o.parameters]
        if not owners:
            known = dict.fromkeys(key for o in operators for key in o.parameters)
            label = " or ".join(o.name for o in operators)
            problems.append(f"{path}: {label} has no such parameter.{did_you_mean(name, known)}")
        if isinstance(setting, Range):
            values = [*setting.choices, *(v for v in (setting.low, setting.high) if v is not None)]
        else:
            values = [setting]
        # of infinite numbers `_settings` has told
        finite = [v for v in values if not isinstance(v, float) or math.isfinite(v)]
        for owner in owners:
            for value in finite:
                problems += [f"{path}: {p}" for p in _refusals(owner, name, value)]
    return list(dict.fromkeys(problems))


def _refusals(operator: Operator, name: str, value: Any) -> list[str]:
    if name in operator.per_source:
        problem = operator.per_source[name].problem(value)
        return [f"{operator.name}: {problem}"] if problem else []
    try:
        operator.validate_shared({name: value})
    except ConfigError as error:
        return [f"{operator.name}: {problem.partition(': ')[2]}" for problem in error.problems]
    return []
