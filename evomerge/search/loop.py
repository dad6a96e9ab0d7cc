"""The loop: ask, submit, record, report; and the replay of what was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.errors import ReplayError
from evomerge.executors import Executor
from evomerge.recipes import Recipe
from evomerge.search.baselines import baselines
from evomerge.search.budget import Clock, Reading
from evomerge.search.counts import Counts
from evomerge.search.differences import difference
from evomerge.search.fitness_values import as_preferred, with_value
from evomerge.search.held_out import HeldOut
from evomerge.search.known import Known
from evomerge.search.order import ORDERS
from evomerge.search.selection import champions, preferences, winner
from evomerge.search.shown import shown
from evomerge.search.spec import Observer, Progress, Search, Stage
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, Genome

_STEPS = 64  # at most, in one transaction


class SearchLoop:
    """One session of a search: the optimizer's state, what is in flight, and the clock.

    A search has one stage or several, one after the other. When the budget of a stage is spent and
    its last result is reported, its optimizer's estimate of the best is evaluated; then the next
    stage begins. Until then workers run out of work: what comes next depends on those results.
    """

    def __init__(self, search: Search, store: Store, executor: Executor, observe: Observer) -> None:
        self.search, self.store, self.executor, self.observe = search, store, executor, observe
        # how many workers earlier sessions had is not on record
        planned = executor.planned_gpus(search.setup) if search.limits_gpu_hours else 0
        self.clock = Clock(store.elapsed_seconds(), planned, lambda: executor.gpus)
        self.stage = self._new_stage(search.stages[0], {}, Reading(0, 0))
        self.later = list(search.stages[1:])
        self.baselines = baselines(search.context, search.paper_defaults)
        self.candidates: list[Candidate] = []
        self.winners: list[Candidate] = []  # that later stages build on
        self.results: dict[int, Evaluation] = {}
        self.counts = Counts()
        self.in_flight = ORDERS[executor.tell_order](executor)
        self.held_out: dict[int, Evaluation] = {}
        self.tokens_before = 0  # generated in answers to portions, before this stage
        self.known = Known(
            store,
            lambda one, its: self._with_value(one, its, self.results),
            in_part=any(stage.racing is not None for stage in search.stages),
        )

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
                self._report_again(self.candidates[event.number], event.elapsed_seconds)
                continue
            expected = recorded[event.number]
            proposed = self._propose(now, expected)
            if proposed != expected:
                raise ReplayError(difference(expected, proposed))
            self._enter(expected)
        for number in self.stage.racing_on():
            self.in_flight.candidates[number] = self.candidates[number]

    def _report_again(self, candidate: Candidate, seconds: float) -> None:
        """Report a recorded result, or those of a cohort with that of its first candidate.

        Args:
            seconds: of search time at which it was reported.

        Raises:
            ReplayError: it was reported before it was known.
        """
        if candidate.number in self.results:
            return  # with its cohort
        if self.stage.races(candidate):
            self.stage.promoted()
            if not self._close_cohort(seconds):
                text = f"the cohort of candidate {candidate.number} was reported before its end"
                raise ReplayError(text)
            return
        evaluation = self.store.evaluation(candidate.recipe.digest)
        if evaluation is None:
            raise ReplayError(f"candidate {candidate.number} was reported but has no evaluation")
        self.in_flight.remove(candidate.number)
        self._learn(candidate, evaluation)

    def finish(self) -> None:
        """Search until the budget is spent, then score the champions on held-out examples."""
        self.clock.start()  # opening the models is no search time
        for candidate in list(self.in_flight.candidates.values()):
            self.in_flight.evaluate(candidate, self.known.wanted(self.stage, candidate))
        self._show()
        try:
            while self._advance() or self._receive():
                pass
        except KeyboardInterrupt:
            self._keep_arrived()
            raise
        self._score_held_out()
        self._show()

    def _advance(self) -> bool:
        """Ask and report until results are needed or 64 steps are done; False if nothing was done.

        All steps are one transaction: while the driver waits for the disk, workers wait for it.
        After a kill, whatever was not recorded did not happen, nor did anything based on it.
        """
        first, second = self.in_flight.turns(self._ask, self._report)
        with self.store.together():
            for step in range(_STEPS):
                if not (first() or second()):
                    return step > 0
        return True

    def _ask(self) -> bool:
        """Ask for one more candidate and submit it; False if there was none, or no room for it."""
        proposed = None if self.in_flight.full() else self._propose(self.clock.read())
        if proposed is None:
            return False
        self.store.record_ask(proposed, self.clock.seconds)
        if measured := self.stage.space.new_grams():
            self.store.record_grams(measured)
        self._enter(proposed)
        self.in_flight.evaluate(proposed, self.known.wanted(self.stage, proposed))
        return True

    def _receive(self) -> bool:
        """Wait for one evaluation and take it in; False if none was outstanding."""
        if not self.in_flight.waiting:
            return False
        job, evaluation = self.executor.result()
        self.clock.read()  # workers come and go
        candidate = self.in_flight.candidates[job.number]
        if job.portion is not None:
            self.known.keep(candidate, evaluation, self.clock.seconds)
            self.stage.take_in(job.recipe.digest, evaluation)
            for waiting in self.in_flight.arrive(job.recipe.digest):
                self.in_flight.evaluate(waiting, self.known.wanted(self.stage, waiting))
            return True
        evaluation = self._with_value(candidate, evaluation, self.results)
        for waiting in self.in_flight.arrive(job.recipe.digest):
            self.in_flight.evaluate(waiting, evaluation)
        raced = self.stage.races(candidate)
        # it may wait long, and a kill must not lose it
        if raced or self.in_flight.out_of_turn(job.number):
            self.store.record_evaluation(job.recipe.digest, "search", evaluation)
        if raced:
            self.stage.take_in(job.recipe.digest, evaluation)
        return True

    def _keep_arrived(self) -> None:
        """Record results that arrived but are not reported yet, for whoever resumes the run."""
        for number, evaluation in self.in_flight.arrived.items():
            if evaluation.tasks or evaluation.error:  # else its scores are recorded already
                digest = self.in_flight.candidates[number].recipe.digest
                self.store.record_evaluation(digest, "search", evaluation)

    def _report(self) -> bool:
        """Report the next result to the optimizer; False if there was none."""
        number = self.in_flight.next()
        if number is None:
            return False
        candidate, evaluation = self.in_flight.candidates[number], self.in_flight.arrived[number]
        if self.stage.races(candidate):
            self.in_flight.remove(number)
            self._climb()
            return True
        recorded = self.store.record_tell(number, evaluation, elapsed_seconds=self.clock.seconds)
        self.in_flight.remove(number)
        self._learn(candidate, recorded)
        self._show()
        return True

    def _climb(self) -> None:
        """Ask those that go on to the next rung; report the cohorts that have ended."""
        if not self.stage.has_time(self.clock.read()):
            return  # the open cohorts will not be reported
        while True:
            for number in self.stage.promoted(self.in_flight.candidates):
                candidate = self.candidates[number]
                self.in_flight.evaluate(candidate, self.known.wanted(self.stage, candidate))
            seconds = self.clock.seconds
            reported = self._close_cohort(seconds)
            if not reported:
                return
            self.store.record_told(reported, elapsed_seconds=seconds)
            self._show()

    def _close_cohort(self, seconds: float) -> list[int]:
        """Learn from a cohort that has ended; the numbers of its candidates.

        Args:
            seconds: of search time at which it is reported. What was recorded later does not count:
                a replay is to learn the same.
        """
        ended = self.stage.ended()
        if ended is None:
            return []
        self.stage.count_tokens(self.store.tokens(seconds) - self.tokens_before)
        for number, result in ended.items():
            candidate = self.candidates[number]
            if result.whole:
                known = self.store.evaluation(candidate.recipe.digest)
                assert known is not None
            else:
                known = Evaluation("done")
            self._learn(candidate, replace(known, standing=result.standing))
        return list(ended)

    def _propose(self, now: Reading, recorded: Candidate | None = None) -> Candidate | None:
        """The next candidate, or None while results are awaited or all is done.

        Args:
            recorded: while replaying, the candidate that the run went on with: it says whether
                the budget was spent, which the clock cannot.
        """
        number = len(self.candidates)
        if number < len(self.baselines):
            return Candidate(
                number=number,
                kind="baseline",
                genome=Genome({}),
                **self.baselines[number]._asdict(),
            )
        if self.counts.unreported("baseline"):
            return None  # values may be relative to the best source
        if not self.stage.has_begun:
            self.tokens_before = self.store.tokens(now.seconds)
            known = self.search.setup.fitness, self.known.examples
            self.stage.begin(shown(*known, self.candidates, self.results))
        if self._goes_on(now, recorded):
            ahead = recorded is not None or self.in_flight.asks_ahead
            proposed = self.stage.ask(number, ahead=ahead)
            return None if proposed is None else self._searched(number, *proposed)
        if self.in_flight.candidates and not self.stage.has_chosen:
            return None  # the final estimates depend on it
        estimate = self.stage.final_estimate(number)
        if estimate is not None:
            return estimate
        if self.in_flight.candidates or not self.later:
            return None  # the winner and all that follows depend on it
        self._begin(self.later.pop(0), now)
        return self._propose(now, recorded)

    def _goes_on(self, now: Reading, recorded: Candidate | None) -> bool:
        """Whether the optimizer is to be asked for another candidate in this stage."""
        if recorded is None:
            return not (self.stage.spent(now) or self.stage.counts.asked[FINAL_ESTIMATE])
        return (recorded.kind, recorded.stage) == ("search", self.stage.name)

    def _begin(self, stage: Stage, now: Reading) -> None:
        values = preferences(self.search.setup.fitness, self.candidates, self.results)
        best = {n: winner(n, self.candidates, self.results, values) for n in stage.needs}
        self.winners += best.values()
        self.stage = self._new_stage(stage, {name: one.recipe for name, one in best.items()}, now)

    def _new_stage(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> StageRun:
        run = StageRun(stage, winners, began)
        run.space.load_grams(self.store.grams())
        return run

    def _searched(self, number: int, label: str, genome: Genome) -> Candidate:
        """The candidate of a genome, which the space completes first if it has parents."""
        if genome.parents:
            parents = [self.candidates[parent].genome for parent in genome.parents]
            genome = self.stage.space.child(genome, parents)
        return self.stage.candidate(number, "search", genome, label)

    def _enter(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        self.counts.ask(candidate)
        self.stage.enter(candidate, self.store)
        if not self.stage.races(candidate):
            self.in_flight.candidates[candidate.number] = candidate

    def _with_value(
        self, candidate: Candidate, evaluation: Evaluation, results: Mapping[int, Evaluation]
    ) -> Evaluation:
        fitness, compared = self.search.setup.fitness, self.candidates[: len(self.baselines)]
        return with_value(fitness, candidate, evaluation, compared, results)

    def _learn(self, candidate: Candidate, evaluation: Evaluation) -> None:
        # the scores of every example, of every candidate, would fill the memory
        baseline = candidate.kind == "baseline"
        self.results[candidate.number] = evaluation if baseline else replace(evaluation, tasks={})
        if baseline and not self.known.examples:
            self.known.examples = {task: one.doc_ids for task, one in evaluation.tasks.items()}
        self.counts.report(candidate, evaluation)
        known = [*self.candidates[: len(self.baselines)], *self.winners]
        preferred = as_preferred(
            self.search.setup.fitness, candidate, evaluation, known, self.results
        )
        limit = len(self.baselines) if baseline else self.search.stop_after_failures
        self.stage.learn(candidate, preferred, limit)

    def _score_held_out(self) -> None:
        """Score baselines and champions on examples that the search never saw."""
        values = preferences(self.search.setup.fitness, self.candidates, self.results)
        chosen = champions(self.candidates, self.results, self.search.champions, values)
        held_out = HeldOut(self.store, self.executor, self._with_value)
        for _ in held_out.score(chosen):
            self.held_out = held_out.scores
            self._show()

    def _show(self) -> None:
        asked, finished = self.search.evaluations, self.counts.reported
        self.observe(
            Progress(
                done=finished["baseline"] + finished["search"],
                total=None if asked is None else len(self.baselines) + asked,
                best=self.counts.best,
                elapsed_seconds=self.clock.seconds,
                stage=self._where(),
            )
        )

    def _where(self) -> str:
        """See `Progress.stage`."""
        if self.counts.reported["baseline"] < len(self.baselines):
            return "baselines"
        if self.held_out:
            return "held-out"
        waits = self.later and self.in_flight.candidates and self.stage.spent(self.clock.read())
        return f"{self.stage.name}, last results" if waits else self.stage.name or "search"
