"""Whether space, optimizer and fitness of a search fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring import Fitness
from evomerge.spaces import Space


def check_parents(space: Space, optimizer: type[Optimizer], name: str) -> None:
    """Raise unless both space and optimizer make candidates of parents, or neither.

    Args:
        name: of the optimizer.
    """
    if optimizer.breeds and not space.breeds:
        raise ConfigError(
            f"{name} makes candidates of parents, which this space cannot cross. "
            "Set space: crossover."
        )
    if space.breeds and not optimizer.breeds:
        raise ConfigError(
            f"{name} names no parents, of which this space makes candidates. Set optimizer: m2n2."
        )


def check_descriptors(options: Mapping[str, Any], fitness: Fitness) -> None:
    """Raise for tasks that an optimizer is to look at and that the fitness does not have."""
    known = fitness.tasks
    problems = [
        f"descriptors: {name!r} is no task of the fitness.{did_you_mean(name, known)}"
        for name in options.get("descriptors") or ()
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def check_shorten(spaces: Sequence[Space], fitness: Fitness) -> None:
    """Raise where fewer blocks are preferred and every recipe has as many, or of no one model."""
    if fitness.shorten is not None and all(space.largest() is None for space in spaces):
        raise ConfigError(
            "shorten: this space stacks no blocks, so that all its models have as many. "
            "Set space: layer_pruning, or remove this key."
        )
    if fitness.shorten is not None and any(_merges_blocks(space) for space in spaces):
        raise ConfigError(
            "shorten: in the space joint every candidate is a merge of its own, so that there is "
            "no unpruned model to compare it with. Search in stages: first a merge, then a space "
            "like layer_pruning with leading: stage:NAME. Or remove this key."
        )


def _merges_blocks(space: Space) -> bool:
    """Whether it stacks blocks that are merged of several models at once."""
    largest = space.largest()
    return largest is not None and any(len(slice_) > 1 for slice_ in largest.slices)
