"""Job in, evaluation out, on the machine that runs it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from evomerge.engines import Engine
from evomerge.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MachineError,
    PlanError,
    SearchError,
    SourceChangedError,
)
from evomerge.faults import cure_for_machine, memory_ran_out
from evomerge.plugins import registry
from evomerge.recipes import Recipe, other_base
from evomerge.scoring.fitness import Fitness
from evomerge.scoring.scorer import Scorer, check_served
from evomerge.types import Evaluation, Job, Split, TaskScores
from evomerge.weights.files.model_files import ModelFiles, require_unchanged
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What every worker of a run is started with; plain data.

    Attributes:
        composition: the models that all recipes of the run draw on, with tokenizer, slices,
            modules and chat template as in all of them; what else it says means nothing.
        engine: the engine's name.
        engine_options: its validated keyword arguments.
    """

    composition: Recipe
    fitness: Fitness
    engine: str
    engine_options: Mapping[str, Any]

    def new_engine(self) -> Engine:
        """The engine, not open.

        Raises:
            ConfigError: it cannot be made on this machine.
        """
        return registry.find("engines", self.engine, Engine)(**self.engine_options)


class _Attempt(NamedTuple):
    """How one part of an evaluation ended: with scores (none when merging), or with an error."""

    tasks: dict[str, TaskScores]
    seconds: float = 0.0
    error: str | None = None


class Worker:
    """Keeps sources, engine and tasks open from the first job to the last.

    Attributes:
        code: what else the scores depend on: digests of fitness and engine. Nothing of it is read
            again while the worker is open.
        exhausted: memory has run out. The engine can no longer be relied on: close this worker
            and make another.

    Raises:
        InputError: models, engine or tasks that cannot be opened.
    """

    def __init__(self, setup: WorkerSetup) -> None:
        # imports the operators, whose seconds would otherwise count for the first candidate
        from evomerge.weights.measures import measures

        self.setup = setup
        self._measure = partial(measures, wanted=setup.fitness.measures)
        self.exhausted = False
        self._library = Library()
        self.models = self._library.models(setup.composition)
        self._held: dict[int, str] = {}  # slot to the digest of the recipe that is merged in it
        self._measures: dict[int, Mapping[str, float]] = {}  # slot to those of its model
        self._other = self.models  # the last models that were not those of the run
        self._statistics: dict[str, ModelFiles] = {}  # by folder
        kind = registry.find("engines", setup.engine, Engine)
        check_served(setup.fitness, kind, setup.engine)
        self.engine = setup.new_engine()
        self.engine.open(self.models)
        self.code = (setup.fitness.digest, self.engine.identity(self.models))
        self.scorers = {
            split: Scorer(setup.fitness, split, self.engine) for split in get_args(Split)
        }
        self.require_unchanged()

    def evaluate(self, job: Job) -> Evaluation:
        """Merge the job's recipe into the engine and score it.

        A candidate that cannot be merged or scored is a result, not an exception.

        Raises:
            CheckpointError: a source can no longer be read, or holds NaN.
            ConfigError: a task does not score its examples.
            MachineError: the machine has failed; another may score the candidate.
            SearchError: the engine cannot go on; another worker may score the candidate.
            SourceChangedError: a file of a source is no longer what it was when it was opened.
        """
        return self.evaluate_all([job])[0]

    def evaluate_all(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Evaluate several jobs side by side, each as `evaluate` would.

        Args:
            jobs: at most the engine's `at_once`, all on the same examples.

        Raises:
            CheckpointError, ConfigError, SearchError: as `evaluate`.
        """
        self._look(jobs)
        try:
            return self._evaluate_all(jobs)
        finally:  # what was measured, and what failed, may come of files that have changed
            self._look(jobs)

    def _look(self, jobs: Sequence[Job]) -> None:
        try:
            self.require_unchanged(jobs)
        except OSError as error:
            _raise_unless_candidates(jobs[0].number, error)
            raise

    def require_unchanged(self, jobs: Sequence[Job] = ()) -> None:
        """Raise unless all files that the jobs are merged from are as they were at first.

        Raises:
            SourceChangedError: names those that are not.
        """
        self.models.require_unchanged()
        for folder in {f for job in jobs for f in job.recipe.statistics.values()}:
            files = self._statistics.setdefault(folder, ModelFiles(Path(folder)))
            require_unchanged(files.changes())

    def _evaluate_all(self, jobs: Sequence[Job]) -> list[Evaluation]:
        scorer = self.scorers[jobs[0].split]
        merges = [
            self._attempt(job.number, partial(self._load, slot, job))
            for slot, job in enumerate(jobs)
        ]
        started = time.perf_counter()
        known: Mapping[str, torch.Tensor] = {}
        if self.engine.at_once > 1 and any(merge.error is None for merge in merges):
            known = scorer.ask_all(self.engine, jobs[0].portion)
        shared = (time.perf_counter() - started) / len(jobs)
        evaluations = []
        for slot, (job, merge) in enumerate(zip(jobs, merges, strict=True)):
            scored = merge
            if merge.error is None:
                own = {name: scores_NE[slot] for name, scores_NE in known.items()}
                scored = self._attempt(job.number, partial(self._score, slot, job, own))
            if scored.error is not None:
                failed = Evaluation("failed", error=scored.error, merge_seconds=merge.seconds)
                evaluations.append(failed)
                continue
            evaluations.append(
                Evaluation(
                    "done",
                    scored.tasks,
                    merge_seconds=merge.seconds,
                    score_seconds=scored.seconds + shared,
                    generation_seconds=scorer.generation_seconds + shared,
                    generated_tokens=scorer.generated_tokens,
                    measures=self._measures[slot],
                )
            )
        return evaluations

    def _load(self, slot: int, job: Job) -> dict[str, TaskScores]:
        digest = job.recipe.digest
        # only a raced candidate comes again at once, for more examples
        if job.portion is None or self._held.get(slot) != digest:
            self._held.pop(slot, None)
            plan = make_plan(job.recipe, self._models_of(job.recipe))
            self.engine.load_at(slot, plan)
            self._measures[slot] = self._measure(plan)
            self._held[slot] = digest
        return {}

    def _score(
        self, slot: int, job: Job, known: Mapping[str, torch.Tensor]
    ) -> dict[str, TaskScores]:
        self.engine.select_slot(slot)
        return self.scorers[job.split].score(self.engine, known, job.portion)

    def _attempt(self, number: int, part: Callable[[], dict[str, TaskScores]]) -> _Attempt:
        """Run one part of an evaluation, and time it; an error is a part of the result."""
        started = time.perf_counter()
        try:
            return _Attempt(part(), time.perf_counter() - started)
        except Exception as error:
            _raise_unless_candidates(number, error)
            # also MemoryError and CUDA's own errors: the next candidate may fit
            self.exhausted |= memory_ran_out(error)
            log.debug("candidate %d failed\n%s", number, traceback.format_exc())
            text = "; ".join(error.problems) if isinstance(error, InputError) else str(error)
            return _Attempt({}, error=f"{type(error).__name__}: {text}")

    def _models_of(self, recipe: Recipe) -> Models:
        """All models of the run, with blocks stacked as in the recipe, and the recipe's own merges.

        A recipe may hold merges of the run's models, such as the winner of an earlier stage. They
        are opened together with all models of the run, so that the merged model has the same
        tensors as that of any other candidate.

        Raises:
            PlanError: the recipe is made of models that are not the run's.
        """
        of_run, base = self.setup.composition, recipe.base
        known = set(of_run.leaves())
        inner = {
            name: model
            for name, model in recipe.sources.items()
            if isinstance(model, Recipe) and known.issuperset(model.leaves())
        }
        if not known.issuperset([base] if isinstance(base, str) else base.leaves()):
            label = base if isinstance(base, str) else "a recipe in place of the base"
            raise PlanError(
                f"not among the models of this search: {label}. Add it to the search's sources."
            )
        sources = {**of_run.sources, **inner}
        if sources.get("base", base) != base:  # that of the run: this recipe has another
            del sources["base"]
        if "base" in recipe.sources:  # its slices call its base so
            sources.setdefault("base", base)
        if of_run.base not in (base, *sources.values()):
            sources[other_base(sources)] = of_run.base
        for models in (self.models, self._other):
            opened = models.composition
            if (opened.base, opened.sources, opened.slices) == (base, sources, recipe.slices):
                return models
        wanted = {"base": base, "sources": sources, "slices": recipe.slices}
        self._other = self._library.models(of_run.model_copy(update=wanted))
        return self._other

    def close(self) -> None:
        """Give memory and devices back."""
        self.engine.close()


def _raise_unless_candidates(number: int, error: Exception) -> None:
    """Raise an error again that is not the candidate's fault.

    Raises:
        MachineError: a disk, a network or a process has failed.
        CheckpointError, ConfigError, SearchError: a damaged file, a wrong YAML, a broken engine.
    """
    if isinstance(error, MachineError | SourceChangedError):
        raise error
    if cure := cure_for_machine(error):
        raise MachineError(
            f"candidate {number}: {type(error).__name__}: {str(error).rstrip('.')}. That is the "
            f"machine's fault, so that nothing is recorded for the candidate. {cure}, then resume "
            "the run."
        ) from error
    if isinstance(error, CheckpointError | ConfigError | SearchError):
        raise error
