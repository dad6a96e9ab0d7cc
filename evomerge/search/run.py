"""Start a run, or resume one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from evomerge.errors import (
    CheckpointError,
    EvomergeError,
    InputError,
    RunError,
    SourceChangedError,
)
from evomerge.executors import Executor
from evomerge.plugins.trusted import remember
from evomerge.recipes.scored import Recorded
from evomerge.search.inputs import read_inputs
from evomerge.search.loop import SearchLoop
from evomerge.search.spec import Observer, Search
from evomerge.store import Store
from evomerge.store.records import recorded_files, version_problem
from evomerge.weights.files.model_files import PUT_BACK, require_unchanged
from evomerge.weights.inputs import Inputs, model_inputs
from evomerge.weights.library import Library
from evomerge.weights.models import Models

_CURE = "Make it as it was again, or begin a new run."


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
    models = Library().models(search.setup.composition)
    _require_finite(models)
    inputs = _read(search, models)
    record = replace(search.record, sources_fingerprints=inputs.digests)
    executor = search.new_executor()
    try:
        _open(search, executor, models)
        with Store.create(folder, record) as store:
            remember(record.search_yaml)  # so that whoever began it may resume it
            _finish(SearchLoop(search, store, executor, observe), models, inputs.digests)
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
        began_with = recorded_files(then)
        models = Library().models(search.setup.composition)
        changed = _read(search, models).differences(began_with)
        if not changed and then.fitness_digest != now.fitness_digest:
            changed.append("fitness: its settings, or a file of its tasks, have changed")
        if not changed and then.settings_digest != now.settings_digest:
            changed.append("engine: its dtype, device or module have changed")
        if changed:
            raise RunError(f"{problem} since {folder} began. {_CURE}" for problem in changed)
        run = SearchLoop(search, store, search.new_executor(), observe)
        try:
            run.replay()
            if then.finished_utc is None:
                _open(search, run.executor, models)
                _finish(run, models, began_with)
        finally:
            run.executor.close()


def _open(search: Search, executor: Executor, read: Models) -> None:
    """Start the workers, after a look at whether they can use up the budgets.

    Args:
        read: the models, opened before.
    """
    search.require_gpus(executor)
    executor.start(search.setup)
    read.require_unchanged()  # what the workers have opened is what was read


def _finish(run: SearchLoop, read: Models, began_with: Recorded) -> None:
    """Search to the end, which is one only if the models are those that the run began with.

    Args:
        read: the models, opened before the workers were.

    Raises:
        SourceChangedError: names the files that differ.
    """
    try:
        run.finish()
    except EvomergeError:
        with suppress(OSError):  # which is the machine's fault already
            read.require_unchanged()  # a worker that died of a file that was cut cannot say so
        raise
    search = run.search
    try:
        models = Library().models(search.setup.composition)
        inputs = model_inputs(models, search.context.statistics)
    except InputError as error:
        raise SourceChangedError("\n".join([*error.problems, PUT_BACK])) from None
    compared = {key: files for key, files in began_with.items() if key in inputs.digests}
    changed = inputs.differences(compared)
    require_unchanged(f"{problem} since the run began." for problem in changed)
    run.store.finish()


def _require_finite(models: Models) -> None:
    """Read every source once, before anything is written.

    Raises:
        CheckpointError: tensors that hold NaN or infinities, all of them.
    """
    if problems := [p for one in models.checkpoints.values() for p in one.non_finite()]:
        raise CheckpointError(problems)


def _read(search: Search, models: Models) -> Inputs:
    return read_inputs(models, search.context.statistics, search.setup)
