"""The loop: ask, submit, record, tell; and resume by replaying what was recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import CheckpointError, ReplayError, RunError, SearchError
from evomerge.executors import Executor
from evomerge.nouns import Candidate, Evaluation, Genome, Job, Kind
from evomerge.operators import get
from evomerge.optimizers import Optimizer
from evomerge.outcome import champions, references
from evomerge.recipes import Recipe
from evomerge.scoring import fitness_value
from evomerge.spaces import Ground, Space
from evomerge.store import RunRecord, Store
from evomerge.weights.models import Models
from evomerge.worker import WorkerSetup


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends, whichever comes first.

    Attributes:
        evaluations: candidates asked of the optimizer; baselines come on top.
        seconds: of search time, summed over all sittings.
    """

    evaluations: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """A validated search, its parts composed by `evomerge.config`.

    Attributes:
        ground: what all recipes have in common.
        new_optimizer, new_executor: fresh ones, unstarted.
        setup: what workers are started with.
        stop_after_failures: give up when this many first candidates all fail.
        champions: how many of the best are scored on held-out examples.
        record: what the store keeps of the search itself.
    """

    ground: Ground
    space: Space
    new_optimizer: Callable[[], Optimizer]
    new_executor: Callable[[], Executor]
    setup: WorkerSetup
    budget: Budget
    stop_after_failures: int
    champions: int
    record: RunRecord


class Progress(NamedTuple):
    """Where a search stands.

    Attributes:
        done, total: baselines and candidates that are finished, and that there will be; None
            when only time limits them.
        best: highest fitness so far.
        elapsed_seconds: of search time, over all sittings.
        stage: ``baselines``, ``search`` or ``held-out``.
    """

    done: int
    total: int | None
    best: float | None
    elapsed_seconds: float
    stage: str


Observer = Callable[[Progress], None]


def start(search: Search, folder: Path, observe: Observer) -> None:
    """Run a search in a new folder. Nothing is written before all inputs are known to be good.

    Raises:
        RunError: the folder has a run already.
        InputError: sources with NaN, or whatever `Executor.start` refuses.
        SearchError: the first candidates all failed, or nothing could be scored.
    """
    if (folder / "run.sqlite").exists():
        raise RunError(
            f"{folder}: has a run already. Go on with it: evomerge resume {folder}. "
            "Or choose another folder with --run."
        )
    _check_weights(search.setup)
    executor = search.new_executor()
    try:
        executor.start(search.setup)
        with Store.create(folder, search.record) as store:
            _Run(search, store, executor, observe).finish()
    finally:
        executor.close()


def resume(search: Search, folder: Path, observe: Observer) -> None:
    """Go on with a run as if it had never stopped.

    Raises:
        RunError: no run there, in use by another process, or its sources have changed since.
        ReplayError: this code does not propose what the run has recorded.
        SearchError: as in `start`.
    """
    with Store.open(folder) as store:
        stored = store.run()
        changed = [
            name
            for name, print_ in search.record.sources_fingerprints.items()
            if stored.sources_fingerprints.get(name) != print_
        ]
        if changed:
            raise RunError(f"{folder}: weights have changed since the run began: {changed}")
        if stored.fitness_digest != search.record.fitness_digest:
            raise RunError(f"{folder}: the files of its fitness have changed since the run began")
        run = _Run(search, store, search.new_executor(), observe)
        try:
            run.replay()
            if not run.complete():
                run.executor.start(search.setup)
                run.finish()
        finally:
            run.executor.close()


def baselines(search: Search) -> Iterator[tuple[str, Recipe]]:
    """Label and recipe of what every search is compared with: generation zero.

    The base, each source alone, their uniform average, and the textbook setting of each operator.
    """
    ground = search.ground
    seen: set[str] = set()
    everything = ground.recipe("linear", {"weight": 1.0, "normalize": True})
    # the base is its own only source, whatever it is called in the sources
    own = next((name for name, ref in ground.sources.items() if ref == ground.base), None)
    proposals = [] if own else [("base", replace(ground, sources={"base": ground.base}))]
    proposals += [
        (f"source: {name}", replace(ground, sources={name: reference}))
        for name, reference in ground.sources.items()
    ]
    recipes = [(label, one.recipe("linear", {"weight": 1.0})) for label, one in proposals]
    recipes.append(("uniform average", everything))
    recipes += [
        (f"textbook {name}", ground.recipe(name, get(name).textbook))
        for name in search.space.operators
    ]
    for label, recipe in recipes:
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield label, recipe


class _Run:
    """One sitting: the optimizer's state, what is in flight, and the clock."""

    def __init__(self, search: Search, store: Store, executor: Executor, observe: Observer) -> None:
        self.search, self.store, self.executor, self.observe = search, store, executor, observe
        self.optimizer = search.new_optimizer()
        self.baselines = list(baselines(search))
        self.candidates: list[Candidate] = []
        self.results: dict[int, Evaluation] = {}
        self.in_flight: dict[int, Candidate] = {}
        self.held_out: dict[int, Evaluation] = {}
        self._spent = store.elapsed_seconds()
        self._started = time.monotonic()

    def elapsed_seconds(self) -> float:
        """Search time over all sittings."""
        return self._spent + time.monotonic() - self._started

    def complete(self) -> bool:
        """Whether the recorded run lacks nothing."""
        return self.store.run().finished_utc is not None

    def replay(self) -> None:
        """Bring the optimizer to where the recorded events left it.

        Raises:
            ReplayError: a genome or recipe differs from the recorded one.
        """
        recorded = {candidate.number: candidate for candidate in self.store.candidates()}
        for event in self.store.events():
            if event.kind == "tell":
                candidate = self.in_flight.pop(event.number)
                evaluation = self.store.evaluation(candidate.recipe.digest)
                if evaluation is None:
                    raise ReplayError(f"candidate {event.number} was told but has no evaluation")
                self._learn(candidate, evaluation)
                continue
            expected = recorded[event.number]
            # the recorded kind, not the clock, tells whether the budget was spent
            proposed = self._propose(expected.kind)
            if proposed != expected:
                raise ReplayError(_difference(expected, proposed))
            self._enter(expected)

    def finish(self) -> None:
        """Search until the budget is spent, then score the champions on held-out examples."""
        for candidate in list(self.in_flight.values()):
            self.executor.submit(Job(candidate.number, candidate.recipe, "search"))
        self._show()
        while True:
            while len(self.in_flight) < self.executor.capacity:
                proposed = self._propose()
                if proposed is None:
                    break
                self.store.record_ask(proposed, self.elapsed_seconds())
                self._enter(proposed)
                known = self.store.evaluation(proposed.recipe.digest)
                if known is not None:  # the same recipe costs nothing
                    self._tell(proposed, known)
                else:
                    self.executor.submit(Job(proposed.number, proposed.recipe, "search"))
            if not self.in_flight:
                break
            job, evaluation = self.executor.result()
            self._tell(self.in_flight[job.number], self._valued(evaluation, self.results))
        self._score_held_out()
        self.store.finish()
        self._show()

    def _propose(self, recorded: Kind | None = None) -> Candidate | None:
        """The next candidate, or None while results are awaited or all is done.

        Args:
            recorded: while replaying, the kind that the run went on with.
        """
        number = len(self.candidates)
        if number < len(self.baselines):
            label, recipe = self.baselines[number]
            return Candidate(number, "baseline", label, Genome({}), recipe)
        if any(c.kind == "baseline" for c in self.in_flight.values()):
            return None  # values may be relative to the best source
        if recorded == "search" or (recorded is None and not self._spent_out()):
            genome = self.optimizer.ask(number)
            return None if genome is None else self._decoded(number, "search", genome)
        if self.in_flight or any(c.kind == "mean" for c in self.candidates):
            return None
        mean = self.optimizer.recommend()
        return None if mean is None else self._decoded(number, "mean", mean)

    def _decoded(self, number: int, kind: Kind, genome: Genome) -> Candidate:
        return Candidate(number, kind, "", genome, self.search.space.decode(genome))

    def _spent_out(self) -> bool:
        budget = self.search.budget
        asked = sum(c.kind == "search" for c in self.candidates)
        if budget.evaluations is not None and asked >= budget.evaluations:
            return True
        return budget.seconds is not None and self.elapsed_seconds() >= budget.seconds

    def _enter(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        self.in_flight[candidate.number] = candidate

    def _valued(self, evaluation: Evaluation, results: Mapping[int, Evaluation]) -> Evaluation:
        """The evaluation with its fitness, relative to the sources' results on that split."""
        if evaluation.status == "failed":
            return evaluation
        best = references(self.candidates, results)
        value = fitness_value(self.search.setup.fitness, evaluation.tasks, best)
        return replace(evaluation, value=value)

    def _tell(self, candidate: Candidate, evaluation: Evaluation) -> None:
        kept = self.store.record_tell(
            candidate.number, evaluation, elapsed_seconds=self.elapsed_seconds()
        )
        del self.in_flight[candidate.number]
        self._learn(candidate, kept)
        self._show()

    def _learn(self, candidate: Candidate, evaluation: Evaluation) -> None:
        self.results[candidate.number] = evaluation
        if candidate.kind == "search":
            self.optimizer.tell(candidate.number, evaluation)
        self._give_up_if_all_fail(candidate.kind)

    def _give_up_if_all_fail(self, kind: Kind) -> None:
        """Raise once the first candidates of a kind have all failed."""
        tried = [c.number for c in self.candidates if c.kind == kind and c.number in self.results]
        limit = len(self.baselines) if kind == "baseline" else self.search.stop_after_failures
        failures = [self.results[n].error for n in tried if self.results[n].status == "failed"]
        if len(failures) == len(tried) and len(tried) >= limit:
            raise SearchError(f"the first {len(tried)} candidates all failed: {failures[0]}")

    def _score_held_out(self) -> None:
        """Score baselines and champions on examples that the search never saw."""
        for candidate in champions(self.candidates, self.results, self.search.champions):
            digest = candidate.recipe.digest
            found = self.store.evaluation(digest, "held_out")
            if found is None:
                self.executor.submit(Job(candidate.number, candidate.recipe, "held_out"))
                _, found = self.executor.result()
                if found.status == "done" and not found.tasks:
                    return  # this fitness holds nothing out
                found = self._valued(found, self.held_out)
                self.store.record_evaluation(digest, "held_out", found)
            self.held_out[candidate.number] = found
            self._show()

    def _show(self) -> None:
        values = [e.value for e in self.results.values() if e.value is not None]
        asked = self.search.budget.evaluations
        stage = "held-out" if self.held_out else "search"
        if len(self.results) < len(self.baselines):
            stage = "baselines"
        self.observe(
            Progress(
                sum(c.kind != "mean" for c in self.candidates if c.number in self.results),
                None if asked is None else len(self.baselines) + asked,
                max(values, default=None),
                self.elapsed_seconds(),
                stage,
            )
        )


def _check_weights(setup: WorkerSetup) -> None:
    """Read every source once, before anything is written.

    Raises:
        CheckpointError: tensors that hold NaN or infinities, all of them.
    """
    models = Models(setup.base, setup.sources, setup.tokenizer)
    problems = [p for checkpoint in models.checkpoints.values() for p in checkpoint.non_finite()]
    if problems:
        raise CheckpointError(problems)


def _difference(expected: Candidate, proposed: Candidate | None) -> str:
    """Where the replayed history leaves the recorded one."""
    text = f"candidate {expected.number} is not what the run recorded"
    if proposed is None:
        return f"{text}: nothing was proposed. Resume with the version that began the run."
    for name, value in expected.genome.genes.items():
        if proposed.genome.genes.get(name) != value:
            return (
                f"{text}: gene {name} is {proposed.genome.genes.get(name)!r}, recorded {value!r}. "
                "Resume with the versions that began the run; run.sqlite names them."
            )
    return f"{text}: its kind, parents or recipe differ. Resume with the version that began the run"
