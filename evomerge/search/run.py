"""Start a run, or resume one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.errors import CheckpointError, RunError
from evomerge.executors import Executor
from evomerge.search.loop import SearchLoop
from evomerge.search.spec import Observer, Search
from evomerge.store import Store
from evomerge.store.records import version_problem
from evomerge.weights.library import Library
from evomerge.worker import WorkerSetup


def start(search: Search, folder: Path, observe: Observer) -> None:
    """Run a search in a new folder. Nothing is written before all inputs are known to be good.

    Raises:
        RunError: the folder has a run already.
        InputError: sources with NaN, or what `Executor.start` refuses.
        SearchError: the first candidates all failed, or nothing could be scored.
    """
    if Store.exists(folder):
        raise RunError(
            f"{folder}: has a run already. Go on with it: evomerge resume {folder}. "
            "Or choose another folder for this one."
        )
    record = replace(search.record, sources_fingerprints=_read_weights(search.setup))
    executor = search.new_executor()
    try:
        _open(search, executor)
        with Store.create(folder, record) as store:
            SearchLoop(search, store, executor, observe).finish()
    finally:
        executor.close()


def resume(search: Search, folder: Path, observe: Observer) -> None:
    """Go on with a run as if it had never stopped.

    Raises:
        RunError: no run there, in use by another process, or something has changed since it began.
        ReplayError: this code does not propose the candidates that the run recorded.
        SearchError: as in `start`.
    """
    with Store.open(folder) as store:
        then, now = store.run(), search.record
        if problem := version_problem(then, str(folder)):
            raise RunError(problem)
        same = {
            "the weights of its models": then.sources_fingerprints == _fingerprints(search.setup),
            "the files of its fitness": then.fitness_digest == now.fitness_digest,
            "the engine's dtype, device or module": then.settings_digest == now.settings_digest,
        }
        if changed := [name for name, unchanged in same.items() if not unchanged]:
            raise RunError(f"{folder}: changed since the run began: {', '.join(changed)}")
        run = SearchLoop(search, store, search.new_executor(), observe)
        try:
            run.replay()
            if then.finished_utc is None:
                _open(search, run.executor)
                run.finish()
        finally:
            run.executor.close()


def _open(search: Search, executor: Executor) -> None:
    """Start the workers, after a look at whether they can use up the budgets."""
    if search.limits_gpu_hours:
        gpus = executor.planned_gpus(search.setup)
        for stage in search.stages:
            stage.budget.require_gpus(gpus)
    executor.start(search.setup)


def _read_weights(setup: WorkerSetup) -> dict[str, str]:
    """Read every source once, before anything is written; returns the fingerprints.

    Raises:
        CheckpointError: tensors that hold NaN or infinities, all of them.
    """
    models = Library().models(setup.composition)
    problems = [p for checkpoint in models.checkpoints.values() for p in checkpoint.non_finite()]
    if problems:
        raise CheckpointError(problems)
    return _fingerprints(setup)


def _fingerprints(setup: WorkerSetup) -> dict[str, str]:
    models = Library().models(setup.composition)
    prints = {name: source.fingerprint for name, source in models.sources.items()}
    return {"base": models.base.fingerprint, **prints}
