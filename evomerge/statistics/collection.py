"""What to collect, and every mistake in it that shows before a model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.config.load import fitness_from
from evomerge.errors import ConfigError
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring import Fitness
from evomerge.weights.statistics import StatisticsKind


@dataclass(frozen=True, slots=True)
class Collection:
    """What to collect.

    Attributes:
        model: a folder or hub name.
        kind: ``fisher`` or ``gram``.
        text: a text file; or
        fitness: a preset's name or path, whose search examples are read.
        tasks: of the fitness; () takes all.
        examples: how many are drawn, at least 1; all where there are fewer.
        max_length: of an example in tokens, at least 2; the model's own limit where that is less.
        seed: of the draw, and of labels.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
        batch_size: examples at once, for Gram matrices only.
        diagonal: of Gram matrices keep only the diagonals.
    """

    model: str
    kind: StatisticsKind
    text: Path | None = None
    fitness: str | None = None
    tasks: Sequence[str] = ()
    examples: int = 256
    max_length: int = 512
    seed: int = 0
    device: str = "auto"
    batch_size: int | None = None
    diagonal: bool = False


def check(what: Collection) -> Fitness | None:
    """All mistakes that can be seen without the model, at once; and the fitness, if one is meant.

    Raises:
        ConfigError: numbers out of range, or not exactly one origin of examples.
    """
    problems = [
        f"{name}: expected at least {least}, got {value}"
        for name, value, least in (
            ("examples", what.examples, 1),
            ("max_length", what.max_length, 2),
            ("seed", what.seed, 0),
            ("batch_size", 1 if what.batch_size is None else what.batch_size, 1),
        )
        if value < least
    ]
    if (what.text is None) == (what.fitness is None):
        problems.append("expected either a text or a fitness to take examples from")
    if what.text is not None and not what.text.is_file():
        problems.append(f"{what.text}: no such file. Check the path.")
    if what.tasks and what.fitness is None:
        problems.append("tasks: only a fitness has tasks. Leave them out, or give a fitness.")
    if what.kind == "fisher":
        if (what.batch_size or 1) > 1:
            problems.append("batch_size: gradients are squared example by example. Leave it out.")
        if what.diagonal:
            problems.append("diagonal: of Gram matrices only; fisher is one. Leave it out.")
    fitness = None
    if what.fitness is not None:
        try:
            fitness = fitness_from(what.fitness, Path.cwd())
            problems += [
                f"tasks: {what.fitness} has no {name!r}.{did_you_mean(name, fitness.tasks)}"
                for name in what.tasks
                if name not in fitness.tasks
            ]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if fitness is not None and what.tasks:
        kept = {name: task for name, task in fitness.tasks.items() if name in what.tasks}
        fitness = fitness.model_copy(update={"tasks": kept})
    return fitness
