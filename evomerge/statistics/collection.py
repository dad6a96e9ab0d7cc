"""Which statistics to collect, and whether they can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.config.load import fitness_from
from evomerge.errors import ConfigError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring import Fitness
from evomerge.weights.statistics import StatisticsKind

BATCH_SIZES: dict[StatisticsKind, int] = {"fisher": 1, "gram": 8, "second_moments": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Which statistics of which model, and on which examples.

    Attributes:
        model: a folder or hub name.
        kind: ``fisher``, ``gram`` or ``second_moments``.
        text: a text file to take examples from; or
        fitness: a preset's name or path, whose search examples are taken.
        tasks: of the fitness; () takes all.
        examples: how many to draw, at least 1; all if there are fewer.
        max_length: tokens of an example, at least 2; the model's own limit if that is less.
        seed: of the draw, of fisher's labels, and of the batches of second moments.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
        batch_size: examples in a batch, not for fisher; None takes `BATCH_SIZES`.
        diagonal: keep the diagonals of Gram matrices only.
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
    """The fitness to take examples from, if there is one, without the tasks that are left out.

    Raises:
        ConfigError: numbers out of range, not exactly one origin of examples, options that the
            kind does not have; all at once.
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
    if what.kind == "fisher" and (what.batch_size or 1) > 1:
        problems.append("batch_size: gradients are squared example by example. Leave it out.")
    if what.kind != "gram" and what.diagonal:
        problems.append(f"diagonal: of Gram matrices only, not of {what.kind}. Leave it out.")
    fitness = None
    if what.fitness is not None:
        try:
            fitness = fitness_from(what.fitness, Path.cwd())
            problems += [
                f"tasks: {what.fitness} has no {shown(name)}.{did_you_mean(name, fitness.tasks)}"
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
