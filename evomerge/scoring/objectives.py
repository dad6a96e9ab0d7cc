"""Objectives that a search weighs against one another, and the least that each must reach."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, field_validator, model_validator

from evomerge.errors import Problem, WrongValuesError, shown
from evomerge.keys import Keys

Measure = Literal["layers", "parameters", "distance", "tokens", "seconds"]
OF_MODELS: tuple[Measure, ...] = ("layers", "parameters", "distance")  # whatever they are asked

_Weight = Annotated[float, Field(ge=1e-9, le=1e9)]
_Tasks = (
    Annotated[tuple[str, ...], Field(min_length=1)]
    | Annotated[dict[str, _Weight], Field(min_length=1)]
)
_FLOOR = re.compile(r"(?:(?P<share>[0-9]*\.?[0-9]+)\s*\*\s*)?source:(?P<source>\S+)")


class Objective(Keys):
    """One of several things that a search makes large, or small: scores of tasks, or a measure.

    Attributes:
        tasks: names of the fitness, or these with their weights here; a name alone keeps the
            weight that it has in the fitness.
        aggregate: what is made of their scores, each divided by the best source's where the fitness
            is normalized: the weighted ``mean``; the ``worst``; the ``geometric_mean``; or
            ``retention``, the weighted mean of the shares of the best source's scores.
        measure: in place of tasks: ``layers`` and ``parameters`` of the model; its ``distance``
            from the base, the length of its task vector relative to that of the base's weights;
            ``tokens`` generated in an answer and ``seconds`` that one takes, on average.
        goal: of a measure: to ``minimize`` it, the default, or to ``maximize``. Scores are
            maximized.
    """

    tasks: _Tasks | None = None
    aggregate: Literal["mean", "worst", "geometric_mean", "retention"] | None = None
    measure: Measure | None = None
    goal: Literal["minimize", "maximize"] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Objective:
        if (self.tasks is None) == (self.measure is None):
            raise ValueError("give either tasks or a measure")
        if self.measure is not None and self.aggregate is not None:
            raise ValueError(Problem(("aggregate",), "is for tasks, and this is a measure."))
        if self.tasks is not None and self.goal == "minimize":
            text = "scores are maximized: of less-is-better metrics evomerge takes the negative."
            raise ValueError(Problem(("goal",), text, "Remove it."))
        if self.aggregate == "worst" and isinstance(self.tasks, dict):
            text = "the worst score has no weights."
            raise ValueError(Problem(("tasks",), text, "Give the tasks as a list."))
        return self

    @property
    def sign(self) -> int:
        """What turns its value into one of which more is better, and back: 1 or -1."""
        return -1 if self.measure is not None and self.goal != "maximize" else 1


class Floor(NamedTuple):
    """The least that a model must reach on an objective.

    Attributes:
        number: itself; or, of a source, the share of what the source reaches.
    """

    number: float
    source: str | None


def floor_of(value: float | str) -> Floor:
    """A floor as a YAML has it: a number, or ``0.95 * source:NAME``.

    Raises:
        ValueError: another text.
    """
    if not isinstance(value, str):
        return Floor(float(value), None)
    found = _FLOOR.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"expected a number, or 0.95 * source:NAME, got {shown(value)}")
    return Floor(float(found["share"] or 1.0), found["source"])


class Aims(Keys):
    """The keys of a fitness that say what is weighed against what.

    Attributes:
        objectives: by name; at least two. Names of tasks and measures alone, in a list, are these
            by themselves. Without any, each task of the fitness is one.
        floor: objective to the least that it must reach, a number or ``0.95 * source:NAME``. A
            model that reaches all floors comes before any that does not.
    """

    objectives: dict[str, Objective] | None = None
    floor: dict[str, float | str] | None = None

    @field_validator("objectives", mode="before")
    @classmethod
    def _by_themselves(cls, value: Any) -> Any:
        """Names of tasks and measures, each an objective by itself."""
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            return value
        if repeated := {name for name in value if value.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(repeated))} is there twice")
        measures = get_args(Measure)
        return {n: {"measure": n} if n in measures else {"tasks": (n,)} for n in value}

    @field_validator("objectives")
    @classmethod
    def _several(cls, objectives: dict[str, Objective] | None) -> dict[str, Objective] | None:
        if objectives is not None and len(objectives) < 2:
            raise ValueError("give two or more; a single one needs no such key")
        return objectives

    @field_validator("floor")
    @classmethod
    def _can_be_read(cls, floor: dict[str, float | str] | None) -> dict[str, float | str] | None:
        problems = []
        for name, value in (floor or {}).items():
            try:
                floor_of(value)
            except ValueError as error:
                problems.append(Problem((name,), f"{error}."))
        if problems:
            raise WrongValuesError(*problems)
        return floor

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is to be measured of models."""
        named = {one.measure for one in (self.objectives or {}).values()}
        return tuple(measure for measure in OF_MODELS if measure in named)

    @property
    def floors(self) -> Mapping[str, Floor]:
        """By objective, those that have one."""
        return {name: floor_of(value) for name, value in (self.floor or {}).items()}
