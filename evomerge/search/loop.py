"""The loop: ask, submit, record, tell; and the replay of what was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.errors import ReplayError
from evomerge.executors import Executor
from evomerge.recipes import Recipe
from evomerge.scoring import fitness_value
from evomerge.scoring.python import uneven
from evomerge.search.baselines import baselines
from evomerge.search.clock import Clock, Reading
from evomerge.search.counts import Counts
from evomerge.search.selection import (
    champions,
    preference,
    preferences,
    references,
    scores_alone,
    winner,
)
from evomerge.search.spec import Observer, Progress, Search, Stage
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, Genome, Job

_STEPS = 64  # that may be recorded as one


class SearchLoop:
    """One session: the optimizer's state, what is in flight, and the clock.

    A search has one stage or several, of which one is under way. When its budget is spent and its
    last result is told, its optimizer's estimate of the best is evaluated; then the next stage
    begins. Until then the workers have less and less to do: what comes next depends on the result.

    With an executor that tells as candidates finish, a candidate is asked for whenever a worker is
    free, and told at once. With ``tell_order: asked`` the calls to the optimizer depend on nothing
    but its answers: it is asked until ``lookahead`` candidates are in flight or it wants to see
    results, then the oldest one is told, and so on. What finished before its turn is recorded, and
    waits.
    """

    def __init__(self, search: Search, store: Store, executor: Executor, observe: Observer) -> None:
        self.search, self.store, self.executor, self.observe = search, store, executor, observe
        # no record tells how many workers earlier sessions had
        planned = executor.planned_gpus(search.setup) if search.limits_gpu_hours else 0
        self.clock = Clock(store.elapsed_seconds(), planned, lambda: executor.gpus)
        self.stage = self._new_stage(search.stages[0], {}, Reading(0, 0))
        self.later = list(search.stages[1:])
        self.baselines = baselines(search.context, search.paper_defaults)
        self.candidates: list[Candidate] = []
        self.winners: list[Candidate] = []  # that later stages build on
        self.results: dict[int, Evaluation] = {}
        self.counts = Counts()
        self.in_flight: dict[int, Candidate] = {}  # asked and not told, oldest first
        self.arrived: dict[int, Evaluation] = {}  # of these, what is known already
        self.awaited: dict[str, list[int]] = {}  # at work, by recipe: who waits for it
        self.held_out: dict[int, Evaluation] = {}

    def complete(self) -> bool:
        """Whether the recorded run lacks nothing."""
        return self.store.run().finished_utc is not None

    def replay(self) -> None:
        """Bring the optimizers to where the recorded events left them.

        Raises:
            ReplayError: a genome or recipe differs from the recorded one.
        """
        recorded = {candidate.number: candidate for candidate in self.store.candidates()}
        before = 0.0
        for event in self.store.events():
            now, before = self.clock.earlier(before), event.elapsed_seconds
            if event.kind == "tell":
                candidate = self.in_flight.pop(event.number)
                evaluation = self.store.evaluation(candidate.recipe.digest)
                if evaluation is None:
                    raise ReplayError(f"candidate {event.number} was told but has no evaluation")
                self._learn(candidate, evaluation)
                continue
            expected = recorded[event.number]
            proposed = self._propose(now, expected)
            if proposed != expected:
                raise ReplayError(_difference(expected, proposed))
            self._enter(expected)

    def finish(self) -> None:
        """Search until the budget is spent, then score the champions on held-out examples."""
        self.clock.start()  # it stood while models were opened
        for candidate in self.in_flight.values():
            self._send(candidate, self.store.evaluation(candidate.recipe.digest))
        self._show()
        try:
            while self._advance() or self._receive():
                pass
        except KeyboardInterrupt:
            self._keep_arrived()
            raise
        self._score_held_out()
        self.store.finish()
        self._show()

    def _advance(self) -> bool:
        """Tell and ask until a result is awaited, or for a while; whether there was any to do.

        It is recorded as one, because workers may wait for the driver while it waits for the disk.
        A kill takes back what was not recorded, with all that followed from it.
        """
        # whoever tells in order asks first: what has arrived by now must not matter
        in_order = self.executor.tell_order == "asked"
        first, second = (self._ask, self._tell) if in_order else (self._tell, self._ask)
        with self.store.together():
            for step in range(_STEPS):
                if not (first() or second()):
                    return step > 0
        return True

    def _ask(self) -> bool:
        """Ask for one more candidate; whether there was one, and room for it."""
        if self.executor.tell_order == "asked":
            full = len(self.in_flight) >= self.executor.lookahead
        else:
            full = len(self.awaited) >= self.executor.capacity
        proposed = None if full else self._propose(self.clock.read())
        if proposed is None:
            return False
        known = self.store.record_ask(proposed, self.clock.seconds)
        if measured := self.stage.space.new_grams():
            self.store.record_grams(measured)
        self._enter(proposed)
        self._send(proposed, known)
        return True

    def _send(self, candidate: Candidate, known: Evaluation | None) -> None:
        """Have a candidate evaluated, unless its recipe has been or is being evaluated."""
        digest = candidate.recipe.digest
        if known is not None:  # the same recipe costs nothing
            self.arrived[candidate.number] = known
        elif digest in self.awaited:
            self.awaited[digest].append(candidate.number)
        else:
            self.awaited[digest] = [candidate.number]
            self.executor.submit(Job(candidate.number, candidate.recipe, "search"))

    def _receive(self) -> bool:
        """Wait for one evaluation; whether one was outstanding."""
        if not self.awaited:
            return False
        job, found = self.executor.result()
        self.clock.read()  # workers come and go
        digest = job.recipe.digest
        evaluation = self._valued(self.in_flight[job.number], found, self.results)
        for number in self.awaited.pop(digest):
            self.arrived[number] = evaluation
        if not self._due(job.number):  # it may wait long, and a kill must not lose it
            self.store.record_evaluation(digest, "search", evaluation)
        return True

    def _keep_arrived(self) -> None:
        """Record what has arrived and was not told, for whoever resumes the run."""
        for number, evaluation in self.arrived.items():
            digest = self.in_flight[number].recipe.digest
            self.store.record_evaluation(digest, "search", evaluation)

    def _due(self, number: int) -> bool:
        """Whether a candidate is the next one to be told."""
        return self.executor.tell_order == "finished" or number == next(iter(self.in_flight))

    def _tell(self) -> bool:
        """Tell one result that is due; whether there was one."""
        number = next(iter(self.arrived), None)
        if self.executor.tell_order == "asked" and self.arrived:
            number = next(iter(self.in_flight))
        if number is None or number not in self.arrived:
            return False
        candidate = self.in_flight[number]
        kept = self.store.record_tell(
            number, self.arrived[number], elapsed_seconds=self.clock.seconds
        )
        del self.arrived[number], self.in_flight[number]
        self._learn(candidate, kept)
        self._show()
        return True

    def _propose(self, now: Reading, recorded: Candidate | None = None) -> Candidate | None:
        """The next candidate, or None while results are awaited or all is done.

        Args:
            recorded: while replaying, what the run went on with: that and not the clock tells
                whether the budget was spent.
        """
        number = len(self.candidates)
        if number < len(self.baselines):
            return Candidate(
                number=number,
                kind="baseline",
                genome=Genome({}),
                **self.baselines[number]._asdict(),
            )
        if self.counts.open("baseline"):
            return None  # values may be relative to the best source
        if self._goes_on(now, recorded):
            genome = self.stage.optimizer.ask(number)
            if genome is None and (recorded or self.executor.tell_order == "finished"):
                genome = self.stage.optimizer.ask_ahead(number)
            return None if genome is None else self._searched(number, genome)
        if self.in_flight:
            return None  # the final estimate, the winner and all that follows depend on it
        estimate = self.stage.final_estimate(number)
        if estimate is not None or not self.later:
            return estimate
        self._begin(self.later.pop(0), now)
        return self._propose(now, recorded)

    def _goes_on(self, now: Reading, recorded: Candidate | None) -> bool:
        """Whether the optimizer is asked for more in this stage."""
        if recorded is None:
            return not (self.stage.spent(now) or self.stage.counts.asked[FINAL_ESTIMATE])
        return (recorded.kind, recorded.stage) == ("search", self.stage.name)

    def _begin(self, stage: Stage, now: Reading) -> None:
        """Go on with a stage, over the winners that it needs."""
        values = preferences(self.search.setup.fitness, self.candidates, self.results)
        best = {n: winner(n, self.candidates, self.results, values) for n in stage.needs}
        self.winners += best.values()
        self.stage = self._new_stage(stage, {name: one.recipe for name, one in best.items()}, now)

    def _new_stage(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> StageRun:
        run = StageRun(stage, winners, began)
        run.space.load_grams(self.store.grams())
        return run

    def _searched(self, number: int, genome: Genome) -> Candidate:
        return self.stage.candidate(number, "search", self._whole(genome))

    def _whole(self, genome: Genome) -> Genome:
        """The genome with what the space makes of its parents."""
        if not genome.parents:
            return genome
        return self.stage.space.child(genome, [self.candidates[n].genome for n in genome.parents])

    def _enter(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        self.in_flight[candidate.number] = candidate
        self.counts.ask(candidate)
        self.stage.counts.ask(candidate)

    def _valued(
        self, candidate: Candidate, found: Evaluation, results: Mapping[int, Evaluation]
    ) -> Evaluation:
        """The evaluation with its fitness, relative to the sources' results on that split.

        It has failed where it is of other examples than the first: no worker knows of both.
        A normalized baseline gets none: what it is relative to is not known before all sources
        are scored, and what is recorded stays as it is.
        """
        fitness = self.search.setup.fitness
        first = next((one.tasks for one in results.values() if one.tasks), {})
        if text := uneven(fitness, found.tasks, first):
            found = replace(found, status="failed", tasks={}, error=f"CandidateError: {text}")
        unknown = candidate.kind == "baseline" and fitness.normalize != "none"
        if found.status == "failed" or unknown:
            return found
        best = references(self.candidates[: len(self.baselines)], results)
        return replace(found, value=fitness_value(fitness, found.tasks, best))

    def _learn(self, candidate: Candidate, evaluation: Evaluation) -> None:
        # the scores of every example, of every candidate, would fill the memory
        kept = evaluation if candidate.kind == "baseline" else replace(evaluation, tasks={})
        self.results[candidate.number] = kept
        self.counts.tell(candidate, evaluation)
        failures = self.search.stop_after_failures
        limit = len(self.baselines) if candidate.kind == "baseline" else failures
        self.stage.learn(candidate, self._as_preferred(candidate, evaluation), limit)

    def _as_preferred(self, candidate: Candidate, evaluation: Evaluation) -> Evaluation:
        """The evaluation as the optimizer sees it: with what it is worth for its value."""
        fitness = self.search.setup.fitness
        if fitness.shorten is None or evaluation.value is None or candidate.kind == "baseline":
            return evaluation
        known = [*self.candidates[: len(self.baselines)], *self.winners]
        alone = scores_alone(fitness, known, self.results)
        return replace(evaluation, value=preference(fitness, candidate, evaluation.value, alone))

    def _score_held_out(self) -> None:
        """Score baselines and champions on examples that the search never saw."""
        values = preferences(self.search.setup.fitness, self.candidates, self.results)
        chosen = champions(self.candidates, self.results, self.search.champions, values)
        # values may be relative to the best source: baselines first
        self._hold_out([c for c in chosen if c.kind == "baseline"])
        if self.held_out:
            self._hold_out([c for c in chosen if c.kind != "baseline"])

    def _hold_out(self, chosen: Sequence[Candidate]) -> None:
        """Score these on held-out examples, all workers at once; nothing where none are held."""
        missing: dict[int, Candidate] = {}
        for candidate in chosen:
            found = self.store.evaluation(candidate.recipe.digest, "held_out")
            if found is None:
                missing[candidate.number] = candidate
                self.executor.submit(Job(candidate.number, candidate.recipe, "held_out"))
            else:
                self.held_out[candidate.number] = found
        for _ in range(len(missing)):
            job, found = self.executor.result()
            if found.status == "done" and not found.tasks:
                continue  # this fitness holds nothing out
            found = self._valued(missing[job.number], found, self.held_out)
            self.store.record_evaluation(job.recipe.digest, "held_out", found)
            self.held_out[job.number] = found
            self._show()

    def _show(self) -> None:
        asked, told = self.search.evaluations, self.counts.told
        self.observe(
            Progress(
                told["baseline"] + told["search"],
                None if asked is None else len(self.baselines) + asked,
                self.counts.best,
                self.clock.seconds,
                self._where(),
            )
        )

    def _where(self) -> str:
        """See `Progress.stage`."""
        if self.counts.told["baseline"] < len(self.baselines):
            return "baselines"
        if self.held_out:
            return "held-out"
        waits = self.later and self.in_flight and self.stage.spent(self.clock.read())
        return f"{self.stage.name}, last results" if waits else self.stage.name or "search"


def _difference(expected: Candidate, proposed: Candidate | None) -> str:
    """Where the replayed history leaves the recorded one."""
    text = f"candidate {expected.number} is not what the run recorded"
    if proposed is None:
        return f"{text}: nothing was proposed. Resume with the version that began the run."
    for name, value in expected.genome.genes.items():
        if proposed.genome.genes.get(name) != value:
            return (
                f"{text}: gene {name} is {proposed.genome.genes.get(name)!r}, recorded {value!r}. "
                "Resume with the versions that began the run; `evomerge show --json` lists them."
            )
    return f"{text}: its kind, parents or recipe differ. Resume with the version that began the run"
