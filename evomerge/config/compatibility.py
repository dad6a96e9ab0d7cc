"""Whether the parts of a search fit together; each check raises for all that does not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.config.pace import pace
from evomerge.engines import Engine
from evomerge.errors import ConfigError, Problem, shown
from evomerge.optimizers import Optimizer
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring import Fitness
from evomerge.scoring.by_example import SearchExamples, search_examples
from evomerge.scoring.task_files import task_file_problems
from evomerge.search.budget import Budget
from evomerge.search.racing.settings import Racing
from evomerge.search.spec import Stage
from evomerge.spaces import Space
from evomerge.types import Gene
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan


def check_fitness(fitness: Fitness) -> SearchExamples:
    """What is known of its examples; raises for a folder, tasks or scorers that do not exist."""
    if fitness.include_path is not None and not Path(fitness.include_path).is_dir():
        raise ConfigError(Problem(("include_path",), f"{fitness.include_path}: no such folder"))
    if problems := task_file_problems(fitness):
        raise ConfigError(problems)
    return search_examples(fitness)


def check_floors(fitness: Fitness, sources: Collection[str]) -> None:
    """Raise for floors of sources that do not exist.

    Args:
        sources: their names.
    """
    problems = [
        Problem(
            ("floor", name), f"{shown(one.source)} is no source.", did_you_mean(one.source, sources)
        )
        for name, one in fitness.floors.items()
        if one.source is not None and one.source not in sources
    ]
    if problems:
        raise ConfigError(problems)


def check_parents(space: Space, optimizer: type[Optimizer], name: str) -> None:
    """Raise where only one of space and optimizer works with parents."""
    if optimizer.needs_parents and not space.needs_parents:
        raise ConfigError(
            f"{name} makes candidates from parents, which this space cannot cross. "
            "Set space: crossover."
        )
    if space.needs_parents and not optimizer.needs_parents:
        raise ConfigError(
            f"{name} names no parents, but this space crosses parents. Set optimizer: m2n2."
        )


def check_descriptors(options: Mapping[str, Any], fitness: Fitness) -> None:
    """Raise for descriptors of an optimizer that are no tasks of the fitness."""
    known = fitness.tasks
    problems = [
        Problem(
            ("descriptors",), f"{shown(name)} is no task of the fitness.", did_you_mean(name, known)
        )
        for name in options.get("descriptors") or ()
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def check_shorten(spaces: Sequence[Space], fitness: Fitness) -> None:
    """Raise for ``shorten`` where depth never varies, or recipes have no unpruned counterpart."""
    if fitness.shorten is None:
        return
    largest = [recipe for space in spaces if (recipe := space.largest()) is not None]
    if not largest:
        text = "this space stacks no blocks, so all its models have equally many."
        cure = "Set space: layer_pruning, or remove this key."
        raise ConfigError(Problem(("shorten",), text, cure))
    if any(len(slice_) > 1 for recipe in largest for slice_ in recipe.slices):
        text = (
            "in the space joint every candidate is a different merge, so that there is no "
            "unpruned model to compare it with."
        )
        cure = (
            "Search in stages: first a merge, then a space like layer_pruning with leading: "
            "stage:NAME. Or remove this key."
        )
        raise ConfigError(Problem(("shorten",), text, cure))


def check_measures(spaces: Sequence[Space], fitness: Fitness) -> None:
    """Raise for a distance from the base where the blocks of models are not the base's."""
    if any(space.largest() is not None for space in spaces):
        problems = [
            Problem(
                ("objectives", name, "measure"),
                "the blocks of a model that are stacked differently have none from the base's.",
                "Measure layers or parameters.",
            )
            for name, one in (fitness.objectives or {}).items()
            if one.measure == "distance"
        ]
        if problems:
            raise ConfigError(problems)


def check_budget(
    budget: Budget, racing: Racing | None, optimizer: Optimizer, examples: SearchExamples | None
) -> None:
    """Raise for a budget that never ends a search, or that does not reach for one cohort.

    Args:
        examples: None where the fitness is wrong.
    """
    size = optimizer.cohort_size
    known = budget.model_dump(exclude_none=True)
    others = {key: limit for key, limit in known.items() if key != "tokens"}
    problems = []
    generated = examples is None or examples.generated
    if budget.tokens is not None and not others and not generated:
        text, cure = "no task of the fitness has any generated.", "Limit evaluations or examples."
        problems.append(Problem(("tokens",), text, cure))
    if optimizer.divides_budget and not {"evaluations", "examples", "tokens"} & known.keys():
        text = "the optimizer takes a share of it for the fitness alone, which time does not tell."
        problems.append(Problem((), text, "Limit evaluations or examples, beside time or alone."))
    if racing is not None and size is not None:
        least = {"evaluations": size, "examples": size * racing.first}
        problems += [
            Problem((key,), f"{others[key]}, and the first cohort alone takes {needed}.")
            for key, needed in least.items()
            if others.get(key, needed) < needed
        ]
    if problems:
        raise ConfigError(problems)


def check_reach(stage: Stage, fitness: Fitness) -> None:
    """Raise for a budget that a race's starts and final estimate leave no cohort of.

    How many examples scorers have, and so what they take, is known only in the run.
    """
    found = None if fitness.scorers else pace(stage, fitness)
    least = {} if found is None else found.least(1)
    problems = [
        Problem(
            (key,),
            f"{limit} are too few for one cohort.",
            f"Together with its ties, the starts and the final estimate it takes {least[key]}.",
        )
        for key in least
        if (limit := getattr(stage.budget, key)) < least[key]
    ]
    if problems:
        raise ConfigError(problems)


def check_racing(
    racing: Racing,
    optimizer: Optimizer,
    name: str,
    fitness: Fitness,
    examples: SearchExamples | None,
) -> None:
    """Raise where candidates cannot be ranked by some of the examples.

    Args:
        name: of the optimizer.
        examples: None where the fitness is wrong.
    """
    off = "Set racing: false."
    problems = []
    if optimizer.cohort_size is None:
        text = f"the optimizer {name} learns from all examples of every candidate."
        problems.append(Problem((), text, f"{off[:-1]}, or take optimizer: cmaes."))
    if fitness.shorten is not None:
        problems.append(Problem((), "shorten compares scores on all examples.", off))
    if any(one.measure for one in (fitness.objectives or {}).values()):
        problems.append(Problem((), "measures are taken where all examples are asked.", off))
    if fitness.floor:
        problems.append(Problem((), "floors are for scores on all examples.", off))
    if racing.first < len(fitness.tasks):
        text = f"{racing.first} examples are fewer than the {len(fitness.tasks)} tasks."
        problems.append(Problem(("first",), text, "Ask one of each at least."))
    whole = {} if examples is None else examples.indivisible
    problems += [Problem((), f"tasks.{task}: {why}", off) for task, why in whole.items()]
    if problems:
        raise ConfigError(problems)


def check_plans(space: Space, models: Models, engine: Engine | None) -> None:
    """Raise for models that do not merge, or that the engine cannot load.

    The search's start is planned, with every choice of operator once, and its largest stack.
    """
    genome = space.initial()
    for parameter in space.parameters:
        options: tuple[Gene, ...] = parameter.choices or (parameter.initial,)
        for value in options if parameter.name == "operator" else (parameter.initial,):
            chosen = type(genome)({**genome.genes, parameter.name: value})
            plan = make_plan(space.decode(chosen), models)
            if engine is not None:
                engine.validate(plan)
    largest = space.largest()
    if largest is not None:
        make_plan(largest, models)
