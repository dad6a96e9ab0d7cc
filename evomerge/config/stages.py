"""From the stages of a search YAML to those of a search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from evomerge.config.schema import SearchFile, StageKeys
from evomerge.config.validation import Parts, check_descriptors, check_parents, check_shorten
from evomerge.engines import Engine
from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.plugins import registry
from evomerge.plugins.registry import Component, component, did_you_mean
from evomerge.recipes import ROLES, Recipe
from evomerge.search.spec import Stage
from evomerge.spaces import SearchContext, Space
from evomerge.types import Gene
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

WINNER = "stage:"  # before the name of a stage: its best recipe


@dataclass(frozen=True, slots=True)
class Staging:
    """Composes the stages of a search, each over what those before it leave.

    Which recipe wins is not known yet: the one that its stage begins with stands in.

    Attributes:
        file: the search.
        context: its models.
        engine: not open; None where it is wrong.
        library: opens the models that a stage adds.
        standins: by stage; the base where the stage is wrong.
    """

    file: SearchFile
    context: SearchContext
    engine: Engine | None
    library: Library
    standins: dict[str, str | Recipe] = field(default_factory=dict)

    def compose(self, parts: Parts) -> tuple[Stage, ...]:
        """The stages that nothing is wrong with."""
        found = []
        for index, keys in enumerate(self.file.parts):
            if self.file.stages is None:
                found.append(self._stage(0, keys, parts))
                continue
            inside = parts.within(f"stages.{keys.name}", f"stages.{index}.")
            inside.make("name", [".name"], self._check_name, keys.name)
            found.append(self._stage(index, keys, inside))
        stages = [stage for stage in found if stage is not None]
        if len(stages) == len(found):
            spaces = [stage.space for stage in stages]
            parts.make("fitness", ["fitness"], check_shorten, spaces, self.file.fitness)
        return tuple(stages)

    def _stage(self, index: int, keys: StageKeys, parts: Parts) -> Stage | None:
        seed = _seed(self.file.seed, index)
        named = [".space", ".sources", *(["sources"] if keys.sources else [])]
        nameless = any(f"stages.{n}.name" in parts.wrong for n in range(index))
        needs = parts.make("", named, self._needs, keys, nameless)
        standins = {name: self.standins[name] for name in needs or ()}
        context = None if needs is None else parts.make("", [], self._ground, keys, standins)
        space = None
        if needs is not None:
            space = parts.make("space", [".space"], self._space, keys, context or self.context)
        optimizer: Component[Optimizer] | None
        own = [".optimizer"]
        optimizer = parts.make("", own, component, "optimizer", Optimizer, keys.optimizer)
        if optimizer is not None:
            options, fitness = optimizer.options, self.file.fitness
            parts.make("optimizer", ["fitness"], check_descriptors, options, fitness)
        if space is not None and optimizer is not None:
            parts.make("", ["seed"], optimizer.make, space.parameters, seed)
            name = keys.optimizer["name"]
            parts.make("optimizer", [], check_parents, space, optimizer.kind, name)
        if space is not None and context is not None and context.models is not None:
            parts.make("space", [], _plans, space, context.models, self.engine)
        self.standins[keys.name] = self.context.base if space is None else _start(space)
        if needs is None or space is None or optimizer is None:
            return None
        return Stage(
            keys.name,
            tuple(name.removeprefix(WINNER) for name in self._names(keys)),
            space,
            needs,
            partial(self._new_space, keys),
            partial(_new_optimizer, optimizer, seed),
            keys.budget,
        )

    def _check_name(self, name: str) -> None:
        taken = {
            **dict.fromkeys((*ROLES, "base"), "a word of recipes"),
            **dict.fromkeys(self.file.sources, "a source of the search"),
            **dict.fromkeys(self.standins, "an earlier stage"),
        }
        if name in taken:
            raise ConfigError(
                f"{name!r} means something else already, {taken[name]}: call this stage differently"
            )

    def _needs(self, keys: StageKeys, nameless: bool) -> tuple[str, ...]:
        """The earlier stages whose winners are sources.

        Args:
            nameless: whether an earlier stage's name is wrong, so that any name may be its.

        Raises:
            ConfigError: names of no earlier stage, or of no source.
        """
        names = self._names(keys)
        winners = [name.removeprefix(WINNER) for name in names if name.startswith(WINNER)]
        places = dict(reversed(list(_winners_in(keys.space, "space")))) if keys.space else {}
        unknown = [name for name in winners if name not in self.standins]
        problems = [
            f"{places.get(WINNER + name, 'sources')}: {WINNER}{name}: {self._no_stage(name, keys)}"
            for name in unknown
            if not nameless
        ]
        problems += [
            f"sources: {name!r} is no source of the search."
            f"{self._hint([name]) or did_you_mean(name, self.file.sources)}"
            for name in names
            if not name.startswith(WINNER) and name not in self.file.sources
        ]
        problems += [
            f"{places.get(WINNER + name, 'sources')}: {WINNER}{name}: its best recipe may have "
            "more blocks than the base, or fewer, which no space can take. Stack blocks in the "
            "last stage."
            for name in winners
            if isinstance(found := self.standins.get(name), Recipe) and found.slices
        ]
        if not names:
            problems.append("sources: name at least one, or leave this key out")
        if problems or unknown:
            raise ConfigError(problems)
        return tuple(winners)

    def _no_stage(self, name: str, keys: StageKeys) -> str:
        """Why a stage cannot use the best of another."""
        if self.file.stages is None:
            return "this search has no stages. Name a source or base, or give it stages."
        text = "no stage before this one is called so"
        if name == keys.name:
            return f"{text}: it is this one itself. Name an earlier stage, a source or base."
        if name in (stage.name for stage in self.file.stages):
            return f"{text}, but one after it. Put that one first."
        return f"{text}.{did_you_mean(name, self.standins)}"

    def _hint(self, names: Iterable[str]) -> str:
        """How the best of a stage is called, where one of these is the name of the stage alone."""
        named = (name for name in names if name in self.standins)
        return next((f" The best of that stage is called '{WINNER}{name}'." for name in named), "")

    def _space(self, keys: StageKeys, context: SearchContext) -> Space:
        try:
            return _space(keys, context)
        except ConfigError as error:
            raise ConfigError(
                [replace(p, cure=p.cure + self._hint(p.about)) for p in error.details]
            ) from None

    def _names(self, keys: StageKeys) -> list[str]:
        """What the stage calls its sources, those first that only its space names."""
        given = self.file.sources if keys.sources is None else keys.sources
        named = [name for name, _ in _winners_in(keys.space, "space")] if keys.space else ()
        return list(dict.fromkeys([*(name for name in named if name not in given), *given]))

    def _ground(self, keys: StageKeys, winners: Mapping[str, str | Recipe]) -> SearchContext:
        """The search's models with these, as far as the stage names them.

        Raises:
            InputError: they do not fit together.
        """
        context = self.context
        sources = {
            name.removeprefix(WINNER): winners[name.removeprefix(WINNER)]
            if name.startswith(WINNER)
            else context.sources[name]
            for name in self._names(keys)
        }
        if list(sources.items()) == list(context.sources.items()):
            return context
        models = context.models
        if models is not None:
            open_ = self.library.side_by_side if context.mixed else self.library.open
            models = open_(context.base, sources, self.file.tokenizer)
        return replace(context, sources=sources, models=models)

    def _new_space(self, keys: StageKeys, winners: Mapping[str, Recipe]) -> Space:
        return _space(keys, self._ground(keys, winners))


def _seed(seed: int, index: int) -> int:
    """Of a stage's optimizer: stages with the same space are not to draw the same."""
    return int(np.random.default_rng([seed, index]).integers(2**32)) if index else seed


def _new_optimizer(optimizer: Component[Optimizer], seed: int, space: Space) -> Optimizer:
    return optimizer.make(space.parameters, seed)


def _winners_in(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Every ``stage:NAME`` among the keys and values of a space, and where it is."""
    if isinstance(value, str) and value.startswith(WINNER):
        yield value, at
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _winners_in(key, at)
            yield from _winners_in(inner, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _winners_in(inner, at)


def _as_sources(value: Any, at: str = "") -> Any:
    """The same keys and values with ``stage:NAME`` as the name of the source that it is.

    Raises:
        ConfigError: keys that are the same model.
    """
    if isinstance(value, Mapping):
        found = {}
        for key, inner in value.items():
            name = key.removeprefix(WINNER) if isinstance(key, str) else key
            place = f"{at}.{name}" if at else str(name)
            if name in found:
                raise ConfigError(
                    f"{place}: {name} and {WINNER}{name} are one model. Name it once."
                )
            found[name] = _as_sources(inner, place)
        return found
    if isinstance(value, list | tuple):
        return [_as_sources(inner, at) for inner in value]
    return value.removeprefix(WINNER) if isinstance(value, str) else value


def _space(keys: StageKeys, context: SearchContext) -> Space:
    options = _as_sources(keys.space)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError("kind: this key is required, e.g. kind: parameter")
    found = registry.find("spaces", kind, Space)
    return registry.make(found, options, context)


def _start(space: Space) -> Recipe:
    return space.decode(space.initial())


def _plans(space: Space, models: Models, engine: Engine | None) -> None:
    """Plan the start of the search for the engine, with every choice of operator once."""
    genome = space.initial()
    for parameter in space.parameters:
        options: tuple[Gene, ...] = parameter.choices or (parameter.initial,)
        for value in options if parameter.name == "operator" else (parameter.initial,):
            chosen = type(genome)({**genome.genes, parameter.name: value})
            recipe = space.decode(chosen)
            plan = make_plan(recipe, models)
            if engine is not None:
                engine.validate(plan)
    largest = space.largest()
    if largest is not None:
        make_plan(largest, models)
