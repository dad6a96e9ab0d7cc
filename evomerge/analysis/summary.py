"""What came out of a run: its baselines, its candidates, its best, as plain rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.scoring import Fitness, fitness_value, interval
from evomerge.search.selection import preferences, ranked, references
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
class Summary:
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
        """The summary for ``--json``."""
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


def read_summary(folder: Path, fitness: Fitness, store: Store) -> Summary:
    """The summary that a store holds so far."""
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
    by_number = preferences(fitness, candidates, results)
    best = next(iter(ranked(searched_ones, by_number)), None)
    return Summary(
        folder,
        store.run(),
        fitness,
        store.elapsed_seconds(),
        tuple(row for row in rows if row.kind == "baseline"),
        searched,
        None if best is None else rows[best.number],
    )


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
    sources = [c for c in candidates if c.role == "source"]
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
