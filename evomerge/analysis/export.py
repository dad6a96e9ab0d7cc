"""What a search leaves in its run folder, and how to score it with lm-eval alone."""

from __future__ import annotations

import shlex
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from evomerge.analysis.run import Run
from evomerge.engines import Engine, LanguageModelEngine
from evomerge.errors import ConfigError
from evomerge.files import write_text
from evomerge.plugins import registry
from evomerge.scoring import Fitness
from evomerge.weights.library import Library

RECIPE = "recipe.yaml"
CHECKPOINT = "best"


def write_results(run: Run) -> None:
    """Write the best recipe into the run folder, and its checkpoint if the search asks for it."""
    if run.best is None:
        return
    text, path = run.export(), run.folder / RECIPE
    changed = not path.is_file() or path.read_text("utf-8") != text
    write_text(path, text)
    checkpoint = run.folder / CHECKPOINT
    if run.file.build_best and (changed or not checkpoint.exists()):
        shutil.rmtree(checkpoint, ignore_errors=True)
        run.build(checkpoint)


def lm_eval_commands(run: Run) -> list[tuple[str, str]]:
    """Split and command with which lm-eval alone gives the scores of the run's checkpoint.

    There is no command for tasks of which only some examples are drawn, and none where the engine
    cannot run, or would run code of its user to be made.
    """
    fitness, checkpoint = run.file.fitness, run.folder / CHECKPOINT
    if not fitness.lm_eval_tasks:
        return []
    try:
        found = registry.component("engine", Engine, run.file.engine)
        if not issubclass(found.kind, LanguageModelEngine) or found.kind.code_keys:
            return []  # the run may come from a stranger
        engine = found.make()
    except ConfigError:
        return []  # a run may be looked at where its GPU is not
    assert isinstance(engine, LanguageModelEngine)
    models = Library().open(str(checkpoint), {"model": str(checkpoint)})
    arguments = dict(engine.lm_eval_arguments(models))
    asked = engine.lm_eval
    commands, flags = [], list(asked.flags())
    for split in ("search", "held-out"):
        by_shots: dict[int | None, list[str]] = defaultdict(list)
        for task in fitness.lm_eval_tasks.values():
            name = task.task if split == "search" else task.held_out
            if name is not None and task.search_examples is None:
                shots = asked.num_fewshot if task.num_fewshot is None else task.num_fewshot
                by_shots[shots].append(name)
        commands += [
            (split, shlex.join([*_command(arguments, checkpoint, names, shots, fitness), *flags]))
            for shots, names in by_shots.items()
        ]
    return commands


def _command(
    arguments: Any, checkpoint: Path, tasks: list[str], shots: int | None, fitness: Fitness
) -> list[str]:
    model_args = {"pretrained": str(checkpoint), **arguments["model_args"]}
    words = ["lm_eval", "--model", arguments["model"]]
    words += ["--model_args", ",".join(f"{k}={v}" for k, v in model_args.items())]
    words += ["--tasks", ",".join(tasks)]
    if fitness.include_path is not None:
        path = Path(fitness.include_path)
        near = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        words += ["--include_path", str(near)]
    words += ["--batch_size", str(arguments["batch_size"]), "--device", arguments["device"]]
    if shots is not None:
        words += ["--num_fewshot", str(shots)]
    return words
