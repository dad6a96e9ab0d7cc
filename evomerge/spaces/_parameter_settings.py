"""The keys of the space `parameter`: operators that exist, and parameters and bounds they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from evomerge.errors import ConfigError, Problem, shown
from evomerge.keys import is_computable
from evomerge.operators import Operator, get
from evomerge.plugins.registry import did_you_mean, explain
from evomerge.recipes import ROLES
from evomerge.spaces._parameter_range import Range


def chosen_operators(names: Collection[str]) -> tuple[list[Operator], list[Problem]]:
    """The operators of these names, and what is wrong with the names."""
    chosen: list[Operator] = []
    problems: list[Problem] = []
    counts = {name: list(names).count(name) for name in names}
    for name, count in counts.items():
        if count > 1:
            problems.append(Problem(("operator",), f"{name} is named twice"))
        try:
            chosen.append(get(name))
        except ConfigError as error:
            problems += [problem.under("operator") for problem in error.details]
    if not names:
        problems.append(Problem(("operator",), "name at least one"))
    return chosen, problems


def read_settings(
    parameters: Mapping[str, Any], sources: Collection[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Ranges parsed, fixed settings as they are, and what is wrong."""
    settings: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in parameters.items():
        path = ("parameters", name)
        if not isinstance(value, Mapping) or _is_table(value, sources):
            settings[name] = value
            problems += [
                Problem(path, f"expected a finite number, got {shown(leaf)}")
                for leaf in _leaves(value)
                if isinstance(leaf, int | float) and not is_computable(leaf)
            ]
            continue
        try:
            span = Range.model_validate(value).of(len(sources))
        except ValidationError as error:
            problems += explain(error, Range, *path)
            continue
        problems += [Problem(path, text) for text in span.problems()]
        settings[name] = span
    return settings, problems


def _is_table(value: Mapping[str, Any], sources: Collection[str]) -> bool:
    """Whether a mapping gives values to sources or roles rather than bounds."""
    return not value.keys() & Range.model_fields.keys() and any(
        key in sources or key in ROLES for key in value
    )


def domain_problems(settings: Mapping[str, Any], operators: list[Operator]) -> list[Problem]:
    """Parameters that no operator has, and bounds that an operator refuses."""
    problems: list[Problem] = []
    for name, setting in settings.items():
        path = ("parameters", name)
        owners = [o for o in operators if name in o.parameters]
        if not owners:
            known = dict.fromkeys(key for o in operators for key in o.parameters)
            label = " or ".join(o.name for o in operators)
            text = f"{label} has no such parameter."
            problems.append(Problem(path, text, did_you_mean(name, known)))
        simplex = isinstance(setting, Range) and setting.simplex
        problems += [
            Problem(path, f"{owner.name} has one value for all sources.", "Remove simplex")
            for owner in owners
            if simplex and not varies(owner, name)
        ]
        values = setting.extremes() if isinstance(setting, Range) else _leaves(setting)
        # `_settings` has reported infinite numbers
        finite = [v for v in values if not isinstance(v, int | float) or is_computable(v)]
        for owner in owners:
            for value in finite:
                problems += [Problem(path, text) for text in _refusals(owner, name, value)]
    return list(dict.fromkeys(problems))


def varies(operator: Operator, name: str) -> bool:
    """Whether each source has a gene of its own for a parameter."""
    bound = operator.per_source.get(name)
    return bound is not None and not bound.together


def _leaves(setting: Any) -> list[Any]:
    """Every value inside a fixed setting."""
    if isinstance(setting, Mapping):
        return [leaf for inner in setting.values() for leaf in _leaves(inner)]
    if isinstance(setting, (list, tuple)):
        return [leaf for inner in setting for leaf in _leaves(inner)]
    return [setting]


def _refusals(operator: Operator, name: str, value: Any) -> list[str]:
    if name in operator.per_source:
        problem = operator.per_source[name].problem(value)
        return [f"{operator.name}: {problem}"] if problem else []
    try:
        operator.validate_shared({name: value})
    except ConfigError as error:
        return [f"{operator.name}: {problem.text}" for problem in error.details]
    return []
