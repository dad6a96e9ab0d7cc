"""What came out for each candidate of a run, one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from evomerge.analysis.choice import Choice, Compared, choice
from evomerge.analysis.optimism import Layout
from evomerge.analysis.racing import RacingSummary, by_recipe, part, summary
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness, fitness_value, interval
from evomerge.scoring.gains import weighed
from evomerge.search.selection import preferences, ranked, references, source_gains
from evomerge.store import Store
from evomerge.store.records import Event
from evomerge.types import Candidate, Evaluation, Split, TaskScores

Status = Literal["done", "failed", "raced", "dropped", "running"]


@dataclass(frozen=True, slots=True)
class Score:
    """The fitness of one recipe on one split, and its score on each task.

    Attributes:
        value: the fitness.
        half_width: half the width of its 95 % interval.
        tasks: score by task.
        examples: how many were scored.
    """

    value: float
    half_width: float
    tasks: Mapping[str, float]
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate and what came out for it.

    Attributes:
        search, held_out: None where it was not scored on all examples.
        status: ``raced`` was asked some examples, and the optimizer told where it stands;
            ``dropped`` was under way when the time of a finished run was up.
        part: of a candidate that was raced, its score on the search examples that it was asked:
            it says little of one that was asked few, and is not to be ranked among others.
        shortfall: what it lacks of the floors of the fitness on the search examples, relative to
            these; 0 if nothing, None where it was not scored on all of them.
        error: why it failed.
    """

    candidate: Candidate
    status: Status
    search: Score | None
    held_out: Score | None
    part: Score | None
    shortfall: float | None
    error: str | None

    @property
    def number(self) -> int:
        """The number of the candidate."""
        return self.candidate.number

    @property
    def recipe(self) -> Recipe:
        """The recipe of the candidate."""
        return self.candidate.recipe

    def as_json(self) -> dict[str, Any]:
        """The row as ``--json`` prints it."""
        return {
            "number": self.number,
            "kind": self.candidate.kind,
            "stage": self.candidate.stage,
            "role": self.candidate.role,
            "label": self.candidate.label,
            "digest": self.recipe.digest,
            "status": self.status,
            "value": self.search.value if self.search else None,
            "held_out": self.held_out.value if self.held_out else None,
            "search_half_width": self.search.half_width if self.search else None,
            "held_out_half_width": self.held_out.half_width if self.held_out else None,
            "part": None if self.part is None else asdict(self.part),
            "shortfall": self.shortfall,
            "tasks": dict(self.search.tasks) if self.search else {},
            "held_out_tasks": dict(self.held_out.tasks) if self.held_out else {},
            "parents": list(self.candidate.genome.parents),
            "layers": self.recipe.depth,
            "error": self.error,
        }


class Rows(NamedTuple):
    """All candidates by number, the best of those that the search made, and what was saved.

    Attributes:
        choice: what it is worth that the best one was chosen; None without one.
        racing: what racing saved; None in a run that does not race.
    """

    rows: tuple[Row, ...]
    best: Row | None
    choice: Choice | None
    racing: RacingSummary | None


def read_rows(store: Store, fitness: Fitness, events: Sequence[Event], *, finished: bool) -> Rows:
    """What came out for the candidates of a run.

    Args:
        events: of the run.
        finished: whether it is.
    """
    candidates = store.candidates()
    reported = {event.number for event in events if event.kind == "tell"}
    told = [c for c in candidates if c.number in reported]
    search = _known(store, fitness, told, "search")
    held_out = _known(store, fitness, candidates, "held_out")
    portions = by_recipe(store.portions())
    evaluations = search.evaluations
    rows = tuple(
        Row(
            candidate=candidate,
            status=_status(evaluations.get(number), number in reported, finished),
            search=search.scores.get(number),
            held_out=held_out.scores.get(number),
            part=None
            if number in search.scores or candidate.recipe.digest not in portions
            else score(fitness, part(portions[candidate.recipe.digest]), search.best_source),
            shortfall=evaluations[number].shortfall if number in search.scores else None,
            error=evaluations[number].error if number in evaluations else None,
        )
        for number, candidate in enumerate(candidates)
    )
    searched = [c for c in candidates if c.kind != "baseline"]
    best = next(iter(ranked(searched, preferences(fitness, candidates, evaluations))), None)
    racing = summary(candidates, events, portions, evaluations)
    if best is None:
        return Rows(rows, None, None, racing)
    compared = [
        one.compared(store.evaluation(best.recipe.digest, one.split)) for one in (search, held_out)
    ]
    baselines = {c.recipe.digest for c in candidates if c.kind == "baseline"}
    if best.recipe.digest in baselines:
        search.layout.add(compared[0].winner)
    whole = {c.recipe.digest for c in searched if c.number in search.scores} - baselines
    search.layout.others = _lost(searched, whole | {best.recipe.digest})
    made = choice(fitness, candidates, search.layout, *compared)
    return Rows(rows, rows[best.number], made, racing)


def _lost(searched: Sequence[Candidate], whole: Set[str]) -> int:
    """How many recipes were tried as starts beside some that were asked everything, and were not.

    Those of stages where one of the starts was: it may be the luckiest of all of them.

    Args:
        whole: digests of the recipes that were, without baselines that are not the best.
    """
    starts = [c for c in searched if c.kind == "search" and c.label]
    stages = {c.stage for c in starts if c.recipe.digest in whole}
    return len({c.recipe.digest for c in starts if c.stage in stages} - whole)


def _status(evaluation: Evaluation | None, told: bool, finished: bool) -> Status:
    if evaluation is not None:
        return evaluation.status
    if told:
        return "raced"
    return "dropped" if finished else "running"


def score(
    fitness: Fitness, evaluation: Evaluation, best_source: Mapping[str, float] | None = None
) -> Score:
    """The `Score` of an evaluation, computed from its task scores.

    Args:
        best_source: from `references`; needed where the fitness is relative to the best source.
    """
    tasks = evaluation.tasks
    return Score(
        fitness_value(fitness, tasks, best_source),
        interval(fitness, tasks, best_source),
        {name: scores.score for name, scores in tasks.items()},
        evaluation.examples,
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is on record of a split.

    Attributes:
        evaluations, scores: by candidate number; of evaluations, only those of baselines have
            example scores: those of all would fill the memory.
        baselines: number to scores by task, of those that were scored.
        best_source: from `references`.
        layout: of the different recipes that the search made, and that no baseline has.
    """

    split: Split
    evaluations: Mapping[int, Evaluation]
    scores: Mapping[int, Score]
    baselines: Mapping[int, Mapping[str, TaskScores]]
    best_source: Mapping[str, float]
    layout: Layout

    def compared(self, winner: Evaluation | None) -> Compared:
        """The winner beside the baselines."""
        return Compared({} if winner is None else winner.tasks, self.baselines, self.best_source)


def _known(store: Store, fitness: Fitness, candidates: Sequence[Candidate], split: Split) -> _Known:
    """What is on record of these candidates, in a few queries however many they are."""
    baselines = {c.recipe.digest for c in candidates if c.kind == "baseline"}
    searched = {c.recipe.digest for c in candidates} - baselines
    sources = [c for c in candidates if c.role == "source"]
    found = {c.number: store.evaluation(c.recipe.digest, split) for c in sources}
    of_sources = {number: one for number, one in found.items() if one is not None}
    best_source = references(sources, of_sources)
    gains_of_sources = source_gains(fitness, sources, of_sources)
    measured = gains_of_sources.keys() >= {one.source for one in fitness.floors.values()} - {None}
    evaluations, scores, layout = {}, {}, Layout()
    for digest, evaluation in store.evaluations(split):
        if evaluation.status == "done" and measured:
            evaluation = weighed(fitness, evaluation, best_source, gains_of_sources)
        if evaluation.status == "done":
            scores[digest] = score(fitness, evaluation, best_source)
        if evaluation.status == "done" and digest in searched:
            layout.add(evaluation.tasks)
        evaluations[digest] = evaluation if digest in baselines else replace(evaluation, tasks={})
    known = [(c.number, c.recipe.digest) for c in candidates if c.recipe.digest in evaluations]
    return _Known(
        split,
        {number: evaluations[digest] for number, digest in known},
        {number: scores[digest] for number, digest in known if digest in scores},
        {
            c.number: evaluations[c.recipe.digest].tasks
            for c in candidates
            if c.kind == "baseline" and c.recipe.digest in scores
        },
        best_source,
        layout,
    )
