"""The loop: ask, submit, record, report; and the replay of what was recorded."""

from __future__ import annotations

from evomerge.errors import ReplayError
from evomerge.executors import Executor
from evomerge.search.budget import Clock, Reading
from evomerge.search.counts import Counts
from evomerge.search.differences import difference
from evomerge.search.held_out import HeldOut
from evomerge.search.known import Known
from evomerge.search.order import ORDERS
from evomerge.search.racing.race import Race
from evomerge.search.schedule import Schedule
from evomerge.search.scored import front_of, scored
from evomerge.search.spec import Observer, Progress, Search
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import Candidate, Evaluation

_STEPS = 64  # at most, in one transaction


class SearchLoop:
    """One session of a search: the optimizers' states, what is in flight, and the clock."""

    def __init__(self, search: Search, store: Store, executor: Executor, observe: Observer) -> None:
        self.search, self.store, self.executor, self.observe = search, store, executor, observe
        # how many workers earlier sessions had is not on record
        planned = executor.planned_gpus(search.setup) if search.limits_gpu_hours else 0
        self.clock = Clock(store.elapsed_seconds(), planned, lambda: executor.gpus)
        self.schedule = Schedule(search, store)
        self.results = self.schedule.results
        self.counts = Counts()
        self.in_flight = ORDERS[executor.tell_order](executor)
        self.held_out: dict[int, Evaluation] = {}
        in_part = any(stage.racing is not None for stage in search.stages)
        self.known = Known(store, self.results, in_part=in_part)

    @property
    def stage(self) -> StageRun:
        """The stage under way."""
        return self.schedule.stage

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
                candidate = self.results.candidates[event.number]
                self._report_again(candidate, event.elapsed_seconds)
                continue
            expected = recorded[event.number]
            proposed = self._propose(now, expected)
            if proposed != expected:
                raise ReplayError(difference(expected, proposed))
            self._enter(expected)
        for number in [] if self.stage.race is None else self.stage.race.active:
            self.in_flight.candidates[number] = self.results.candidates[number]

    def _report_again(self, candidate: Candidate, seconds: float) -> None:
        """Report a recorded result, or those of a cohort with that of its first candidate.

        Args:
            seconds: of search time at which it was reported.

        Raises:
            ReplayError: it was reported before it was known.
        """
        if candidate.number in self.results.reported:
            return  # with its cohort
        if (race := self.stage.race_of(candidate)) is not None:
            race.climb()
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
            self._evaluate(candidate)
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
        self._evaluate(proposed)
        return True

    def _evaluate(self, candidate: Candidate) -> None:
        """Submit a candidate, to be asked what is not known of it."""
        race = self.stage.race_of(candidate)
        if race is None:
            wanted = self.known.wanted(candidate)
        else:
            wanted = race.lacking(candidate.number) or Evaluation("done")
        self.in_flight.evaluate(candidate, wanted)

    def _receive(self) -> bool:
        """Wait for one evaluation and take it in; False if none was outstanding."""
        if not self.in_flight.waiting:
            return False
        job, evaluation = self.executor.result()
        self.clock.read()  # workers come and go
        candidate, digest = self.in_flight.candidates[job.number], job.recipe.digest
        if job.portion is not None:
            self.known.keep(candidate, evaluation, self.clock.seconds)
            if (race := self.stage.race_of(candidate)) is not None:
                race.take_in(digest, evaluation)
            for waiting in self.in_flight.arrive(digest):
                self._evaluate(waiting)
            return True
        evaluation = self.results.with_value(candidate, evaluation)
        for waiting in self.in_flight.arrive(digest):
            self.in_flight.evaluate(waiting, evaluation)
        if self.in_flight.out_of_turn(job.number):  # it may wait long, and a kill must not lose it
            self.store.record_evaluation(digest, "search", evaluation)
        return True

    def _keep_arrived(self) -> None:
        """Record results that arrived but are not reported yet, for whoever resumes the run."""
        for number, evaluation in self.in_flight.arrived.items():
            if evaluation.tasks or evaluation.error:  # else its scores are recorded already
                digest = self.in_flight.candidates[number].recipe.digest
                self.store.record_evaluation(digest, "search", evaluation)

    def _report(self) -> bool:
        """Report the next result to the optimizer; False if there was none."""
        if (race := self.stage.race) is not None and self._have_raced():
            self._climb(race)
            return True
        number = self.in_flight.next()
        if number is None:
            return False
        candidate, evaluation = self.in_flight.candidates[number], self.in_flight.arrived[number]
        recorded = self.store.record_tell(number, evaluation, elapsed_seconds=self.clock.seconds)
        self.in_flight.remove(number)
        self._learn(candidate, recorded)
        self._show()
        return True

    def _have_raced(self) -> bool:
        """Whether raced candidates were answered; in whatever order, for nobody learns of one."""
        flight = self.in_flight
        raced = [n for n in flight.arrived if self.stage.race_of(flight.candidates[n]) is not None]
        for number in raced:
            flight.remove(number)
        return bool(raced)

    def _climb(self, race: Race) -> None:
        """Ask those that go on to the next rung; report the cohorts that have ended."""
        if not self.stage.spending.has_time(self.clock.read()):
            return  # the open cohorts will not be reported
        while True:
            for number in race.climb():
                self._evaluate(self.results.candidates[number])
            seconds = self.clock.seconds
            reported = self._close_cohort(seconds)
            if not reported:
                return
            self.store.record_told(reported, elapsed_seconds=seconds)
            self.stage.log_cohort()
            self._show()

    def _close_cohort(self, seconds: float) -> list[int]:
        """Learn from a cohort that has ended; the numbers of its candidates, the best first.

        Args:
            seconds: of search time at which it is reported.
        """
        ended = self.stage.close_cohort()
        if ended:
            self.stage.spending.count_tokens(self.store.tokens(seconds))
        for number, standing in ended.items():
            candidate = self.results.candidates[number]
            self._learn(candidate, self.known.reported(candidate.recipe.digest, standing, seconds))
        return sorted(ended, key=lambda number: ended[number], reverse=True)

    def _propose(self, now: Reading, recorded: Candidate | None = None) -> Candidate | None:
        """See `Schedule.next`."""
        ahead = recorded is not None or self.in_flight.asks_ahead
        waits = bool(self.in_flight.candidates)
        return self.schedule.next(now, recorded, waits=waits, ahead=ahead)

    def _enter(self, candidate: Candidate) -> None:
        self.results.candidates.append(candidate)
        self.counts.ask(candidate)
        if self.stage.race_of(candidate) is not None:
            self.stage.enter(candidate, self.known.of(candidate.recipe.digest))
        else:
            self.stage.enter(candidate)
            self.in_flight.candidates[candidate.number] = candidate

    def _learn(self, candidate: Candidate, evaluation: Evaluation) -> None:
        preferred = self.results.report(candidate, evaluation)
        self.counts.report(candidate, self.results.reported[candidate.number])
        compared = len(self.schedule.baselines)
        baseline = candidate.kind == "baseline"
        self.stage.learn(
            candidate, preferred, compared if baseline else self.search.stop_after_failures
        )

    def _score_held_out(self) -> None:
        """Score baselines, champions and the front on examples that the search never saw."""
        held_out = HeldOut(self.store, self.executor, self.results.with_value)
        chosen = self.results.champions(self.search.champions)
        known = {candidate.recipe.digest for candidate in chosen}
        chosen += [one for one in self._front() if one.recipe.digest not in known]
        for _ in held_out.score(sorted(chosen, key=lambda one: one.number)):
            self.held_out = held_out.scores
            self._show()

    def _front(self) -> list[Candidate]:
        """The models on the front of a search that names objectives."""
        fitness, candidates = self.search.setup.fitness, self.results.candidates
        if fitness.objectives is None:
            return []
        known = scored(self.store, fitness, candidates, "search")
        found = front_of(self.store, fitness, known, self.search.seed)
        return [candidates[point.number] for point in found.shown]

    def _show(self) -> None:
        asked, finished = self.search.evaluations, self.counts.reported
        self.observe(
            Progress(
                done=finished["baseline"] + finished["search"],
                total=None if asked is None else len(self.schedule.baselines) + asked,
                best=self.counts.best,
                elapsed_seconds=self.clock.seconds,
                stage=self._where(),
            )
        )

    def _where(self) -> str:
        """See `Progress.stage`."""
        if self.counts.reported["baseline"] < len(self.schedule.baselines):
            return "baselines"
        if self.held_out:
            return "held-out"
        last = self.schedule.later and self.in_flight.candidates
        waits = last and self.stage.is_over(self.clock.read())
        return f"{self.stage.name}, last results" if waits else self.stage.name or "search"
