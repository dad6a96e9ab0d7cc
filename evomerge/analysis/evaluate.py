"""The score of one model, outside of any run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from evomerge.analysis.rows import Score, score
from evomerge.config.load import fitness_from
from evomerge.engines import Engine
from evomerge.errors import CandidateError, ConfigError, shown
from evomerge.files import absolute
from evomerge.keys import plain
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.recipes.references import anchor
from evomerge.recipes.scored import Scored
from evomerge.recipes.yaml import is_recipe
from evomerge.types import Job, Split
from evomerge.weights.inputs import require_scored
from evomerge.weights.library import Library, read_scored_recipe
from evomerge.weights.output.load_notes import plan_notes
from evomerge.weights.zeros import zero_notes
from evomerge.worker import Worker, WorkerSetup
from evomerge.yaml_files import parse_value


def evaluate(
    model: str | os.PathLike[str] | Recipe,
    fitness: str | os.PathLike[str] | Mapping[str, Any],
    *,
    split: Split = "search",
    engine: str | Mapping[str, Any] = "transformers",
    tell: Callable[[str], object] = lambda note: None,
) -> Score:
    """The `Score` of a model or a recipe on one split of a fitness.

    Args:
        model: a folder, a hub name, a recipe file, or a recipe.
        fitness: a preset's name, the path of a YAML, or its keys.
        split: ``search`` or ``held_out``: which of its examples.
        engine: a name, its keys, or YAML with one of these.
        tell: called with each sentence that `evomerge.build` would say of the model.

    Raises:
        InputError: anything of this does not exist or does not fit.
        CandidateError: it cannot be scored.
    """
    if split not in (splits := get_args(Split)):
        raise ConfigError(f"split: no {shown(split)}.{registry.did_you_mean(split, splits)}")
    goal = fitness_from(fitness, Path.cwd())
    notes: list[str] = []
    recipe, scored = (model, []) if isinstance(model, Recipe) else _recipe(str(model), notes.append)
    options = _engine_keys(engine)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"engine: {shown(engine)}: expected a name, or keys with a name")
    library = Library()
    for one in scored:
        require_scored(library.models(one.recipe), one)
    kind = registry.find("engines", name, Engine)
    options = kind.anchored(options, Path.cwd())
    setup = WorkerSetup(
        composition=recipe,
        fitness=goal,
        engine=name,
        engine_options=registry.validate_options(kind, options, "engine"),
    )
    plan = library.plan(recipe)
    setup.new_engine().try_open(plan.models)
    for note in [*notes, *plan_notes(plan), *zero_notes(plan.operator, plan.steps)]:
        tell(note)
    worker = Worker(setup)
    try:
        evaluation = worker.evaluate(Job(0, recipe, split))
    finally:
        worker.close()
    if evaluation.status == "failed":
        raise CandidateError(evaluation.error or "failed")
    if not evaluation.tasks:
        raise ConfigError("fitness: holds no examples out. Give split: search.")
    return score(goal, evaluation)


def _recipe(model: str, note: Callable[[str], None]) -> tuple[Recipe, list[Scored]]:
    """The recipe in a file, or for a model the recipe that leaves it as it is."""
    file = absolute(model, Path.cwd())
    if is_recipe(file):
        return read_scored_recipe(file, note)
    reference = anchor(model, Path.cwd())
    dtype = Library().open(reference, {"model": reference}).dtype
    alone = Recipe(base=reference, sources={"model": reference}, operator="linear", dtype=dtype)
    return alone, []


def _engine_keys(engine: str | Mapping[str, Any]) -> dict[str, Any]:
    keys = parse_value(engine, "engine") if isinstance(engine, str) else plain(engine, ("engine",))
    if isinstance(keys, str):
        return {"name": keys}
    return keys if isinstance(keys, dict) else {}
