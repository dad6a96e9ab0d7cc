"""Which candidates a search prefers: rankings, winners of stages, champions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from evomerge.errors import SearchError
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness, fitness_value
from evomerge.scoring.gains import Gains, gains
from evomerge.types import Candidate, Evaluation

Preference = tuple[float, float]  # minus the shortfall, then what `preference` gives


def preferences(
    fitness: Fitness, candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[int, Preference]:
    """What candidates are ranked by, of all that were scored: mostly the candidate's value.

    One that reaches all floors comes before any that does not.
    """
    alone = {} if fitness.shorten is None else scores_alone(fitness, candidates, results)
    return {
        c.number: (-one.shortfall, preference(fitness, c, one.value, alone))
        for c in candidates
        if (one := results.get(c.number)) is not None and one.value is not None
    }


def preference(
    fitness: Fitness, candidate: Candidate, value: float, alone: Mapping[str, float]
) -> float:
    """What candidates are ranked by: the value, unless the fitness prefers fewer blocks."""
    if fitness.shorten is None:
        return value
    depth, leading = candidate.recipe.depth, alone.get(_reference(candidate.recipe.base))
    if depth is None:  # no block is left out: behind every stack that is good enough
        return fitness.shorten.floor(value)
    if leading is None:
        return value
    return fitness.shorten.preference(value, leading, depth)


def scores_alone(
    fitness: Fitness, candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[str, float]:
    """The fitness of each model that was scored alone: as a baseline, or in an earlier stage."""
    best = references(candidates, results)
    searched = {
        _reference(c.recipe): value
        for c in candidates
        if c.kind != "baseline"
        and c.number in results
        and (value := results[c.number].value) is not None
    }
    return searched | {
        _reference(next(iter(c.recipe.sources.values()))): fitness_value(
            fitness, results[c.number].tasks, best
        )
        for c in candidates
        if c.role in ("base", "source")
        and c.number in results
        and results[c.number].status == "done"
    }


def _reference(model: str | Recipe) -> str:
    return model if isinstance(model, str) else model.digest


def ranked(
    candidates: Sequence[Candidate], preferences: Mapping[int, Preference]
) -> list[Candidate]:
    """The scored candidates, best first; of equals, the earlier one first."""
    scored = sorted((c for c in candidates if c.number in preferences), key=lambda c: c.number)
    return sorted(scored, key=lambda c: preferences[c.number], reverse=True)


def winner(
    stage: str,
    candidates: Sequence[Candidate],
    results: Mapping[int, Evaluation],
    preferences: Mapping[int, Preference],
) -> Candidate:
    """The best of a stage's candidates, its final estimate included; of equals, the first.

    Raises:
        SearchError: none of them was scored.
    """
    own = [c for c in candidates if c.stage == stage and c.kind != "baseline"]
    best = next(iter(ranked(own, preferences)), None)
    if best is None:
        raise SearchError(f"stage {stage}: {_nothing([results.get(c.number) for c in own])}")
    return best


def champions(
    candidates: Sequence[Candidate],
    results: Mapping[int, Evaluation],
    count: int,
    preferences: Mapping[int, Preference],
) -> list[Candidate]:
    """Candidates to score on held-out examples: every baseline, and the best of each stage.

    Args:
        count: how many different recipes of each stage.

    Raises:
        SearchError: nothing was scored.
    """
    best: dict[str, list[Candidate]] = {}
    known: set[str] = set()
    for candidate in ranked([c for c in candidates if c.kind != "baseline"], preferences):
        if candidate.recipe.digest not in known:
            known.add(candidate.recipe.digest)
            best.setdefault(candidate.stage, []).append(candidate)
    compared = [
        c
        for c in candidates
        if c.kind == "baseline" and c.number in results and results[c.number].status == "done"
    ]
    chosen = [*compared, *(c for of_stage in best.values() for c in of_stage[:count])]
    if not best:
        raise SearchError(_nothing(results.values()))
    return sorted(chosen, key=lambda c: c.number)


def _nothing(results: Iterable[Evaluation | None]) -> str:
    errors = [one.error for one in results if one is not None and one.error]
    return f"no candidate could be scored: {errors[0] if errors else 'none asked'}"


def source_gains(
    fitness: Fitness, candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[str, Gains]:
    """By its name, how each source that was scored does on each objective."""
    best = references(candidates, results)
    return {
        next(iter(one.recipe.sources)): gains(fitness, results[one.number], best)
        for one in candidates
        if one.role == "source" and one.number in results and results[one.number].tasks
    }


def references(
    candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[str, float]:
    """The best source's score by task, among the sources scored so far."""
    best: dict[str, float] = {}
    for candidate in candidates:
        if candidate.role == "source" and candidate.number in results:
            for task, scores in results[candidate.number].tasks.items():
                best[task] = max(best.get(task, scores.score), scores.score)
    return best
