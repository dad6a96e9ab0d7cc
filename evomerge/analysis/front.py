"""The front of a run as a person reads it, and the choice of one model from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from evomerge.errors import ConfigError, Problem, RunError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring import Fitness
from evomerge.search.front import Point, hypervolume
from evomerge.search.scored import front_of, scored
from evomerge.store import Store

_BOUND = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>>=|<=)\s*(?P<number>[^<>=]+?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """A model on the front.

    Attributes:
        number: of its candidate.
        label: a baseline's name; empty otherwise.
        value, held_out: its fitness on each split; None where it was not scored.
        search: objective to its number on the search examples, as it is: of one that is minimized,
            less is better.
        half_widths: objective to half the width of the 95 % interval of that number, from
            resampled examples; 0 for what no example has a part in.
        held_out_search: as ``search``, on held-out examples; empty where it was not scored.
    """

    number: int
    label: str
    value: float
    held_out: float | None
    search: Mapping[str, float]
    half_widths: Mapping[str, float]
    held_out_search: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFront:
    """The front of a run: the models of which none is as good as another on every objective.

    Attributes:
        rows: best fitness first.
        goals: objective to whether it is maximized or minimized.
        among: how many different models were asked all search examples, baselines included.
        nondominated: how many of these that reach all floors are dominated by no other.
        dropped: how many of those are dominated by another in more than 90 % of resamples.
        thinned: how many are left out though they are on the front, for they add least to it.
        hypervolume, held_out_hypervolume: of the rows, on each split; None where one of them was
            not scored on held-out examples.
        reference: objective to the number from where hypervolumes are measured.
    """

    rows: tuple[FrontRow, ...]
    goals: Mapping[str, Literal["maximize", "minimize"]]
    among: int
    nondominated: int
    dropped: int
    thinned: int
    hypervolume: float
    held_out_hypervolume: float | None
    reference: Mapping[str, float]


class Bound(NamedTuple):
    """What an objective must at least, or at most, be."""

    objective: str
    sign: Literal[">=", "<="]
    number: float


def read_front(store: Store, fitness: Fitness, seed: int) -> RunFront:
    """The front of what a run has scored by now."""
    candidates = store.candidates()
    known = scored(store, fitness, candidates, "search")
    found = front_of(store, fitness, known, seed)
    unseen = scored(store, fitness, candidates, "held_out").points
    signs = {name: objective.sign for name, objective in fitness.aims.items()}
    own = [
        unseen[point.number]
        for point in found.shown
        if point.number in unseen and unseen[point.number].gains.keys() == signs.keys()
    ]
    baselines = {one.number: one.label for one in candidates if one.kind == "baseline"}
    all_are = bool(found.shown) and len(own) == len(found.shown)
    return RunFront(
        rows=tuple(
            FrontRow(
                number=point.number,
                label=baselines.get(point.number, ""),
                value=point.value,
                held_out=unseen[point.number].value if point.number in unseen else None,
                search=_as_is(point.gains, signs),
                half_widths=found.half_widths[point.number],
                held_out_search=_as_is(unseen[point.number].gains, signs)
                if point.number in unseen
                else {},
            )
            for point in found.shown
        ),
        goals={name: "maximize" if sign > 0 else "minimize" for name, sign in signs.items()},
        among=len(known.points),
        nondominated=found.non_dominated,
        dropped=found.non_dominated - len(found.kept),
        thinned=len(found.kept) - len(found.shown),
        hypervolume=hypervolume([point.gains for point in found.shown], found.reference),
        held_out_hypervolume=hypervolume([one.gains for one in own], found.reference)
        if all_are
        else None,
        reference=_as_is(found.reference, signs),
    )


def _as_is(gains: Mapping[str, float], signs: Mapping[str, int]) -> dict[str, float]:
    """The numbers themselves, of which less may be better."""
    return {name: signs[name] * gain + 0.0 for name, gain in gains.items()}


def choose(
    store: Store,
    fitness: Fitness,
    seed: int,
    weights: Mapping[str, float],
    bounds: Sequence[Bound],
) -> int:
    """The number of the candidate that is best by some weights, within some bounds.

    Args:
        weights: objective to its weight; where there are none, the fitness counts.
        bounds: of all that were scored; where there are none, it is a point of the front.

    Raises:
        ConfigError: objectives that there are not.
        RunError: no model is within the bounds, or the front is empty.
    """
    _check(fitness, weights, bounds)
    candidates = store.candidates()
    known = scored(store, fitness, candidates, "search")
    every = list(known.points.values())
    points = every if bounds else front_of(store, fitness, known, seed).kept
    within = [point for point in points if _is_within(point, fitness, bounds)]
    if not within:
        raise RunError(_nothing(every, fitness, bounds))

    def worth(point: Point) -> tuple[float, ...]:
        weighted = sum(weight * point.gains[name] for name, weight in weights.items())
        return (-point.shortfall, weighted, point.value, -point.number)

    return max(within, key=worth).number


def _check(fitness: Fitness, weights: Mapping[str, float], bounds: Sequence[Bound]) -> None:
    keys = [("weights", name) for name in weights] + [("at", bound.objective) for bound in bounds]
    problems = [
        Problem((key,), f"{shown(name)} is no objective.", did_you_mean(name, fitness.aims))
        for key, name in keys
        if name not in fitness.aims
    ]
    if problems:
        raise ConfigError(problems)


def _is_within(point: Point, fitness: Fitness, bounds: Sequence[Bound]) -> bool:
    for name, sign, number in bounds:
        value = fitness.aims[name].sign * point.gains[name]
        if value < number if sign == ">=" else value > number:
            return False
    return True


def _nothing(every: Sequence[Point], fitness: Fitness, bounds: Sequence[Bound]) -> str:
    """That no model is within the bounds, and how far models get."""
    if not every:
        return "no model was asked all search examples yet"
    if not bounds:
        return f"none of the {len(every)} models that were asked everything reaches all floors"
    reached = []
    for name, sign, _ in bounds:
        values = [fitness.aims[name].sign * p.gains[name] for p in every]
        best = max(values) if sign == ">=" else min(values)
        reached.append(f"{name} {'at most' if sign == '>=' else 'at least'} {best:.4g}")
    asked = ", ".join(f"{name}{sign}{number:g}" for name, sign, number in bounds)
    return f"no model has {asked}: of {len(every)} each by itself has {', '.join(reached)}"


def parse_weights(text: str) -> dict[str, float]:
    """``maths=2,japanese=1`` as objective to weight.

    Raises:
        ConfigError: another text, or weights that are negative or all 0.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        weight = _number(number)
        if not (equals and name.strip()) or weight is None or weight < 0:
            wrong = f"expected maths=2,japanese=1 with weights of 0 or more, got {shown(text)}."
            raise ConfigError(Problem(("weights",), wrong))
        if name.strip() in weights:
            raise ConfigError(Problem(("weights",), f"{shown(name.strip())} is given twice."))
        weights[name.strip()] = weight
    if not any(weights.values()):
        raise ConfigError(Problem(("weights",), "at least one must be above 0."))
    return weights


def parse_bound(text: str) -> Bound:
    """``maths>=0.6`` as a `Bound`.

    Raises:
        ConfigError: another text.
    """
    found = _BOUND.fullmatch(text)
    number = None if found is None else _number(found["number"])
    if found is None or number is None:
        wrong = f"expected maths>=0.6 or layers<=20, got {shown(text)}."
        raise ConfigError(Problem(("at",), wrong))
    sign: Any = found["sign"]
    return Bound(found["name"], sign, number)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
