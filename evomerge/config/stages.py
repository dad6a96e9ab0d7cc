"""The stages of a search, made from their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from evomerge.config.compatibility import (
    check_budget,
    check_descriptors,
    check_measures,
    check_parents,
    check_plans,
    check_racing,
    check_reach,
    check_shorten,
)
from evomerge.config.defaults import default_racing
from evomerge.config.schema import SearchFile, StageKeys
from evomerge.config.stage_sources import SourceNames, is_winner, recipe_name, with_recipe_names
from evomerge.config.starts import given_starts
from evomerge.config.validation import ProblemCollector
from evomerge.engines import Engine
from evomerge.errors import ConfigError, Problem
from evomerge.optimizers import Optimizer
from evomerge.plugins import registry
from evomerge.plugins.registry import Component, component
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.by_example import SearchExamples
from evomerge.search.spec import Stage
from evomerge.spaces import SearchContext, Space
from evomerge.types import Parameter, Proposal
from evomerge.weights.library import Library


@dataclass(frozen=True, slots=True)
class StageComposer:
    """Makes the stages of a search, each over the models that those before it leave.

    Which recipe will win a stage is not known yet: the one that the stage begins with stands in.

    Attributes:
        file: the search.
        context: its models.
        engine: not open; None where it is wrong.
        library: opens the models that a stage adds.
        names: of models.
        examples: of the search; None where the fitness is wrong.
    """

    file: SearchFile
    context: SearchContext
    engine: Engine | None
    library: Library
    names: SourceNames
    examples: SearchExamples | None

    def compose(self, collect: ProblemCollector) -> tuple[Stage, ...]:
        """The stages that nothing is wrong with."""
        stages: list[Stage | None] = []
        for index, keys in enumerate(self.file.parts):
            part = collect
            if self.file.stages is not None:
                valid = ("stages", index, "name") not in collect.invalid
                label = ("stages", keys.name if valid else index)
                part = collect.part("stages", index, label=label)
                part.make(self.names.check, keys.name, at="name", needs_own=["name"])
            stages.append(self._stage(index, keys, part))
        made = tuple(stage for stage in stages if stage is not None)
        if len(made) == len(stages):
            spaces = [stage.space for stage in made]
            for check in (check_shorten, check_measures):
                collect.make(check, spaces, self.file.fitness, at="fitness", needs=["fitness"])
        return made

    def _stage(self, index: int, keys: StageKeys, part: ProblemCollector) -> Stage | None:
        seed, fitness = _seed(self.file.seed, index), self.file.fitness
        context = space = None
        complete = all(("stages", n, "name") not in part.invalid for n in range(index))
        winners = part.make(
            partial(self.names.winners, keys, complete=complete),
            needs=["sources"] if keys.sources else [],
            needs_own=["space", "sources"],
        )
        if winners is not None:
            stand_ins = {name: self.names.stand_ins[name] for name in winners}
            context = part.make(self._context, keys, stand_ins)
            known = context or self.context
            space = part.make(self._space, keys, known, at="space", needs_own=["space"])
        optimizer: Component[Optimizer] | None
        own = ["optimizer"]
        given: tuple[Proposal, ...] = ()
        optimizer = part.make(component, "optimizer", Optimizer, keys.optimizer, needs_own=own)
        if optimizer is not None:
            options = optimizer.options
            part.make(check_descriptors, options, fitness, at="optimizer", needs=["fitness"])
        made = None
        problems = len(part.problems)
        if space is not None and optimizer is not None:
            made = part.make(optimizer.make, space.parameters, seed, at="optimizer", needs=["seed"])
            if made is not None:
                part.make(_take_aim, made, fitness, at="optimizer", needs=["fitness"])
                self._check_racing(keys, made, part)
            name = keys.optimizer["name"]
            part.make(check_parents, space, optimizer.kind, name, at="optimizer")
            if made is not None:
                starts = keys.start or (), space, made, name
                given = part.make(given_starts, *starts, at="start", needs_own=["start"]) or ()
        if space is not None and context is not None and context.models is not None:
            part.make(check_plans, space, context.models, self.engine, at="space")
        start = self.context.base if space is None else space.decode(space.initial())
        self.names.stand_ins[keys.name] = start
        if winners is None or space is None or optimizer is None:
            return None
        stage = Stage(
            name=keys.name,
            sources=tuple(recipe_name(name) for name in self.names.in_stage(keys)),
            space=space,
            needs=winners,
            new_space=partial(self._new_space, keys),
            new_optimizer=partial(_new_optimizer, optimizer, seed, fitness),
            budget=keys.budget,
            informed=optimizer.kind.takes_start if keys.start is None else "auto" in keys.start,
            given=given,
            racing=keys.racing or None,
        )
        if made is None or self.examples is None or len(part.problems) > problems:
            return stage
        return self._raced(stage, keys, made, part)

    def _raced(
        self, stage: Stage, keys: StageKeys, optimizer: Optimizer, part: ProblemCollector
    ) -> Stage:
        """A stage that is right so far, with the racing that its budget reaches for."""
        name, fitness, examples = keys.optimizer["name"], self.file.fitness, self.examples
        if keys.racing:
            part.make(check_reach, stage, fitness, at="budget", needs=["fitness"])
        elif keys.racing is None and examples is not None:
            choice = default_racing(stage, optimizer, name, fitness, examples)
            return replace(stage, racing=choice.racing, not_raced=choice.why_not)
        return stage

    def _check_racing(self, keys: StageKeys, optimizer: Optimizer, part: ProblemCollector) -> None:
        name, fitness, examples = keys.optimizer["name"], self.file.fitness, self.examples
        if keys.racing:
            checked = keys.racing, optimizer, name, fitness, examples
            part.make(check_racing, *checked, at="racing", needs=["fitness"])
        known_budget = keys.budget, keys.racing or None, optimizer, examples
        part.make(check_budget, *known_budget, at="budget", needs=["fitness"])

    def _context(self, keys: StageKeys, winners: Mapping[str, str | Recipe]) -> SearchContext:
        """The models of a stage: those of the search that it names, and these winners."""
        context = self.context
        sources = {
            recipe_name(n): winners[recipe_name(n)] if is_winner(n) else context.sources[n]
            for n in self.names.in_stage(keys)
        }
        if list(sources.items()) == list(context.sources.items()):
            return context
        models = context.models
        if models is not None:
            open_ = self.library.side_by_side if context.mixed else self.library.open
            models = open_(
                context.base,
                sources,
                self.file.tokenizer,
                allow_missing=self.file.allow_missing,
            )
        return replace(context, sources=sources, models=models)

    def _space(self, keys: StageKeys, context: SearchContext) -> Space:
        options = with_recipe_names(keys.space)
        kind = options.pop("kind", None)
        if not isinstance(kind, str):
            text = "this key is required, e.g. kind: parameter"
            raise ConfigError(Problem(("kind",), text))
        try:
            return registry.make(registry.find("spaces", kind, Space), options, context)
        except ConfigError as error:
            raise ConfigError(
                [replace(p, cure=p.cure + self.names.hint(p.about)) for p in error.details]
            ) from None

    def _new_space(self, keys: StageKeys, winners: Mapping[str, Recipe]) -> Space:
        return self._space(keys, self._context(keys, winners))


def _seed(seed: int, index: int) -> int:
    """The seed of a stage's optimizer: stages with the same space are not to draw the same."""
    return int(np.random.default_rng([seed, index]).integers(2**32)) if index else seed


def _new_optimizer(
    optimizer: Component[Optimizer], seed: int, fitness: Fitness, parameters: Sequence[Parameter]
) -> Optimizer:
    made = optimizer.make(parameters, seed)
    _take_aim(made, fitness)
    return made


def _take_aim(optimizer: Optimizer, fitness: Fitness) -> None:
    optimizer.aim(fitness.aim)
