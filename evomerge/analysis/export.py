"""What a person takes away from a run: recipe files, checkpoints, scores, commands."""

from __future__ import annotations

import shlex
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import yaml

from evomerge.analysis.summary import Score, Summary, read_summary, score
from evomerge.config.schema import SearchFile, read_resolved
from evomerge.engines import Engine, LanguageModelEngine
from evomerge.errors import CandidateError, ConfigError, RunError
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import to_mergekit
from evomerge.recipes.references import anchor
from evomerge.recipes.yaml import is_recipe, to_yaml
from evomerge.scoring import Fitness
from evomerge.store import Store
from evomerge.types import Job, Split
from evomerge.weights.library import Library, read_recipe
from evomerge.weights.outline import outline
from evomerge.yaml_files import parse_value

RECIPE = "recipe.yaml"
CHECKPOINT = "best"


def write_results(file: SearchFile, summary: Summary) -> None:
    """Write the best recipe into the run folder, and its checkpoint if the search asks for it."""
    if summary.best is None:
        return
    text = export_recipe(summary.folder, str(summary.best.number), "evomerge")
    path = summary.folder / RECIPE
    changed = not path.exists() or path.read_text("utf-8") != text
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    checkpoint = summary.folder / CHECKPOINT
    if file.build_best and (changed or not checkpoint.exists()):
        from evomerge.weights.build import build

        shutil.rmtree(checkpoint, ignore_errors=True)
        build(path, checkpoint, title=summary.run.name)


def export_recipe(folder: Path, candidate: str, format_: Literal["evomerge", "mergekit"]) -> str:
    """A candidate's recipe as YAML text.

    Args:
        candidate: a number, or ``best``.

    Raises:
        RunError: no such run or candidate, or nothing scored yet.
        ExportError: mergekit cannot express the recipe.
    """
    with Store.open(folder, read_only=True) as store:
        file = read_resolved(store.run().search_yaml, str(folder))
        summary = read_summary(folder, file.fitness, store)
        recipes = {str(c.number): c.recipe for c in store.candidates()}
    best = summary.best
    if candidate == "best" and best is None:
        raise RunError(f"{folder}: no candidate has been scored yet")
    number = str(best.number) if candidate == "best" and best else candidate
    if number not in recipes:
        raise RunError(f"{folder}: no candidate {number}. There are 0 to {len(recipes) - 1}.")
    recipe = recipes[number]
    if format_ == "evomerge":
        return to_yaml(recipe)
    rows = (*summary.baselines, *summary.candidates)
    if not any(row.status == "done" for row in rows if str(row.number) == number):
        Library().plan(recipe)  # says why it cannot be merged; what was scored could be
    return to_mergekit(recipe, *outline(recipe, Library().models(recipe)))


def evaluate_model(model: str, fitness_name: str, engine: str, split: Split) -> Score:
    """The score of a model or a recipe on one split of a fitness.

    Args:
        model: a folder, a hub name, or a recipe file.
        fitness_name: a preset's name or path.
        engine: a name, or YAML with a name and options.

    Raises:
        InputError: anything of this does not exist or does not fit.
        CandidateError: it cannot be scored.
    """
    from evomerge.config.load import fitness_from
    from evomerge.worker import Worker, WorkerSetup

    fitness = fitness_from(fitness_name, Path.cwd())
    if is_recipe(Path(model)):
        recipe = read_recipe(Path(model))
    else:
        reference = anchor(model, Path.cwd())
        dtype = Library().open(reference, {"model": reference}).dtype
        recipe = Recipe(
            base=reference, sources={"model": reference}, operator="linear", dtype=dtype
        )
    options = _engine_keys(engine)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"--engine {engine!r}: expected a name, or keys with a name")
    kind = registry.find("engines", name, Engine)
    options = kind.anchored(options, Path.cwd())
    valid = registry.validate_options(kind, options, file="--engine")
    worker = Worker(
        WorkerSetup(
            base=recipe.base,
            sources=recipe.sources,
            tokenizer=recipe.tokenizer,
            slices=recipe.slices,
            modules=recipe.modules,
            chat_template=recipe.chat_template,
            fitness=fitness,
            engine=name,
            engine_options=valid,
        )
    )
    try:
        found = worker.evaluate(Job(0, recipe, split))
    finally:
        worker.close()
    if found.status == "failed":
        raise CandidateError(found.error or "failed")
    if not found.tasks:
        raise ConfigError(f"{fitness_name}: holds no examples out")
    return score(fitness, found)


def _engine_keys(text: str) -> dict[str, Any]:
    """``transformers`` or ``{name: transformers, threads: 1}`` as keys."""
    try:
        keys = parse_value(text)
    except yaml.YAMLError:
        keys = None
    if isinstance(keys, str):
        return {"name": keys}
    return dict(keys) if isinstance(keys, dict) else {}


def lm_eval_commands(file: SearchFile, checkpoint: Path) -> list[tuple[str, str]]:
    """Split and the command with which plain lm-eval gives the same scores.

    There is none for tasks of which only some examples are drawn, and none where the engine
    cannot run.
    """
    fitness = file.fitness
    if not fitness.lm_eval_tasks:
        return []
    try:
        engine = registry.component("engine", Engine, file.engine).make()
    except ConfigError:
        return []  # a run may be looked at where its GPU is not
    assert isinstance(engine, LanguageModelEngine), "only these answer lm-eval's tasks"
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
