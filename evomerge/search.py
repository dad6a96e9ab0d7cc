"""The loop: ask, submit, record, tell; and the replay of what was recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from evomerge.baselines import baselines
from evomerge.errors import ReplayError, SearchError
from evomerge.executors import Executor
from evomerge.nouns import Candidate, Evaluation, Genome, Job, Kind
from evomerge.optimizers import Optimizer
from evomerge.outcome import champions, references
from evomerge.scoring import fitness_value
from evomerge.spaces import Ground, Space
from evomerge.store import RunRecord, Store
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
        best: highest fitness of a searched candidate so far.
        elapsed_seconds: of search time, over all sittings.
        stage: ``baselines``, ``search`` or ``held-out``.
    """

    done: int
    total: int | None
    best: float | None
    elapsed_seconds: float
    stage: str


Observer = Callable[[Progress], None]


class Sitting:
    """One sitting: the optimizer's state, what is in flight, and the clock."""

    def __init__(self, search: Search, store: Store, executor: Executor, observe: Observer) -> None:
        self.search, self.store, self.executor, self.observe = search, store, executor, observe
        self.optimizer = search.new_optimizer()
        self.baselines = list(baselines(search.ground, search.space.operators))
        self.candidates: list[Candidate] = []
        self.results: dict[int, Evaluation] = {}
        self.in_flight: dict[int, Candidate] = {}
        self.held_out: dict[int, Evaluation] = {}
        self._spent = store.elapsed_seconds()
        self._started: float | None = None  # the clock stands while models are opened

    def elapsed_seconds(self) -> float:
        """Search time over all sittings."""
        if self._started is None:
            return self._spent
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
        self._started = time.monotonic()
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
            candidate = self.in_flight[job.number]
            self._tell(candidate, self._valued(candidate, evaluation, self.results))
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

    def _valued(
        self, candidate: Candidate, found: Evaluation, results: Mapping[int, Evaluation]
    ) -> Evaluation:
        """The evaluation with its fitness, relative to the sources' results on that split.

        A normalized baseline gets none: what it is relative to is not known before all sources
        are scored, and what is recorded stays as it is.
        """
        fitness = self.search.setup.fitness
        unknown = candidate.kind == "baseline" and fitness.normalize != "none"
        if found.status == "failed" or unknown:
            return found
        best = references(self.candidates, results)
        return replace(found, value=fitness_value(fitness, found.tasks, best))

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
                found = self._valued(candidate, found, self.held_out)
                self.store.record_evaluation(digest, "held_out", found)
            self.held_out[candidate.number] = found
            self._show()

    def _show(self) -> None:
        searched = (self.results.get(c.number) for c in self.candidates if c.kind != "baseline")
        values = [found.value for found in searched if found and found.value is not None]
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
