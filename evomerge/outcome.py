"""What came out of a run: its baselines, its candidates, its best, as plain rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import SearchError
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness, fitness_value, interval
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Kind, Split


@dataclass(frozen=True, slots=True)
class Score:
    """One recipe on one split.

    Attributes:
        value: the fitness.
        half_width: of its 95 % interval.
        tasks: score by task.
        examples: how many were scored.
    """

    value: float
    half_width: float
    tasks: Mapping[str, float]
    examples: int


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate as a person sees it.

    Attributes:
        status: ``done``, ``failed`` or ``running``.
        search, held_out: None where it was not scored.
        layers: blocks, where the recipe stacks them.
        stage: empty for a baseline, and in a search without stages.
    """

    number: int
    kind: Kind
    label: str
    digest: str
    status: str
    search: Score | None
    held_out: Score | None
    error: str | None
    parents: tuple[int, ...]
    layers: int | None = None
    stage: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row for ``--json``."""
        return {
            "number": self.number,
            "kind": self.kind,
            "stage": self.stage,
            "label": self.label,
            "digest": self.digest,
            "status": self.status,
            "value": self.search.value if self.search else None,
            "held_out": self.held_out.value if self.held_out else None,
            "search_half_width": self.search.half_width if self.search else None,
            "held_out_half_width": self.held_out.half_width if self.held_out else None,
            "tasks": dict(self.search.tasks) if self.search else {},
            "held_out_tasks": dict(self.held_out.tasks) if self.held_out else {},
            "parents": list(self.parents),
            "layers": self.layers,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run, finished or not.

    Attributes:
        best: the searched candidate that is worth most; None before there is one.
    """

    folder: Path
    run: RunRecord
    fitness: Fitness
    elapsed_seconds: float
    baselines: tuple[Row, ...]
    candidates: tuple[Row, ...]
    best: Row | None

    def as_json(self) -> dict[str, Any]:
        """The outcome for ``--json``."""
        return {
            "run": {
                "name": self.run.name,
                "folder": str(self.folder),
                "seed": self.run.seed,
                "created_utc": self.run.created_utc,
                "finished_utc": self.run.finished_utc,
                "elapsed_seconds": self.elapsed_seconds,
                "versions": dict(self.run.versions),
                "host": self.run.host,
            },
            "baselines": [row.as_json() for row in self.baselines],
            "best": self.best.as_json() if self.best else None,
            "candidates": [row.as_json() for row in self.candidates],
        }


def read_outcome(folder: Path, fitness: Fitness, store: Store) -> Outcome:
    """The outcome that a store holds so far."""
    candidates = store.candidates()
    told = {event.number for event in store.events() if event.kind == "tell"}
    results, search = _read(fitness, [c for c in candidates if c.number in told], store, "search")
    _, held_out = _read(fitness, candidates, store, "held_out")
    rows = [
        Row(
            c.number,
            c.kind,
            c.label,
            c.recipe.digest,
            results[c.number].status if c.number in results else "running",
            search.get(c.number),
            held_out.get(c.number),
            results[c.number].error if c.number in results else None,
            c.genome.parents,
            c.recipe.depth,
            c.stage,
        )
        for c in candidates
    ]
    searched = tuple(row for row in rows if row.kind != "baseline")
    searched_ones = [c for c in candidates if c.kind != "baseline"]
    worth = worths(fitness, candidates, results)
    best = next(iter(ranked(searched_ones, worth)), None)
    return Outcome(
        folder,
        store.run(),
        fitness,
        store.elapsed_seconds(),
        tuple(row for row in rows if row.kind == "baseline"),
        searched,
        None if best is None else rows[best.number],
    )


def worths(
    fitness: Fitness, candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[int, float]:
    """What each candidate that was scored is worth, by number: its value, as a rule."""
    values = {c.number: results[c.number].value for c in candidates if c.number in results}
    known = {number: value for number, value in values.items() if value is not None}
    if fitness.shorten is None:
        return known
    alone = scores_alone(fitness, candidates, results)
    return {
        c.number: worth(fitness, c, known[c.number], alone) for c in candidates if c.number in known
    }


def worth(
    fitness: Fitness, candidate: Candidate, value: float, alone: Mapping[str, float]
) -> float:
    """What a candidate is worth to a fitness that may prefer fewer blocks; else its value.

    Args:
        alone: from `scores_alone`.
    """
    depth, leading = candidate.recipe.depth, alone.get(_reference(candidate.recipe.base))
    if fitness.shorten is None:
        return value
    if depth is None:  # no block is left out: the last of all that are good enough beside it
        return fitness.shorten.floor(value)
    if leading is None:
        return value
    return fitness.shorten.worth(value, leading, depth)


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
        if c.kind == "baseline"
        and len(c.recipe.sources) == 1
        and c.number in results
        and results[c.number].status == "done"
    }


def _reference(model: str | Recipe) -> str:
    return model if isinstance(model, str) else model.digest


def ranked(candidates: Sequence[Candidate], worth: Mapping[int, float]) -> list[Candidate]:
    """Those that were scored, best first; of equals, the one found first."""
    scored = [c for c in candidates if c.number in worth]
    return sorted(scored, key=lambda c: (-worth[c.number], c.number))


def winner(
    stage: str,
    candidates: Sequence[Candidate],
    results: Mapping[int, Evaluation],
    worth: Mapping[int, float],
) -> Candidate:
    """The best of a stage's searched candidates and its mean; of equals, the one found first.

    Args:
        worth: from `worths`.

    Raises:
        SearchError: none of them was scored.
    """
    own = [c for c in candidates if c.stage == stage and c.kind != "baseline"]
    best = next(iter(ranked(own, worth)), None)
    if best is None:
        raise SearchError(f"stage {stage}: {_nothing([results.get(c.number) for c in own])}")
    return best


def champions(
    candidates: Sequence[Candidate],
    results: Mapping[int, Evaluation],
    count: int,
    worth: Mapping[int, float],
) -> list[Candidate]:
    """Who is scored on held-out examples: every baseline and the best of each stage's recipes.

    Args:
        worth: from `worths`.

    Raises:
        SearchError: nothing was scored.
    """
    best: dict[str, list[Candidate]] = {}
    known: set[str] = set()
    for candidate in ranked([c for c in candidates if c.kind != "baseline"], worth):
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


def _nothing(found: Iterable[Evaluation | None]) -> str:
    """Why there is no best candidate."""
    errors = [one.error for one in found if one is not None and one.error]
    return f"no candidate could be scored: {errors[0] if errors else 'none asked'}"


def references(
    candidates: Sequence[Candidate], results: Mapping[int, Evaluation]
) -> dict[str, float]:
    """The best source's score by task, among the sources scored so far."""
    best: dict[str, float] = {}
    for candidate in candidates:
        if candidate.label.startswith("source: ") and candidate.number in results:
            for task, scores in results[candidate.number].tasks.items():
                best[task] = max(best.get(task, scores.score), scores.score)
    return best


def score(
    fitness: Fitness, evaluation: Evaluation, best_source: Mapping[str, float] | None = None
) -> Score:
    """An evaluation as numbers for a person."""
    tasks = evaluation.tasks
    return Score(
        fitness_value(fitness, tasks, best_source),
        interval(fitness, tasks, best_source),
        {name: scores.score for name, scores in tasks.items()},
        sum(len(scores.example_scores) for scores in tasks.values()),
    )


def _read(
    fitness: Fitness, candidates: Sequence[Candidate], store: Store, split: Split
) -> tuple[dict[int, Evaluation], dict[int, Score]]:
    """By number: evaluations and scores.

    The example scores of a long run would fill the memory: only baselines keep theirs.
    """
    sources = [c for c in candidates if c.label.startswith("source: ")]
    of_sources = {c.number: store.evaluation(c.recipe.digest, split) for c in sources}
    best_source = references(sources, {n: found for n, found in of_sources.items() if found})
    results, scores = {}, {}
    for candidate in candidates:
        found = store.evaluation(candidate.recipe.digest, split)
        if found is None:
            continue
        kept = found if candidate.kind == "baseline" else replace(found, tasks={})
        results[candidate.number] = kept
        if found.status == "done":
            scores[candidate.number] = score(fitness, found, best_source)
    return results, scores
