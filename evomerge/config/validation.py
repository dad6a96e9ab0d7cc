"""Validation of a search YAML: each part as far as the others allow, then how they fit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from evomerge.config.schema import SearchFile
from evomerge.errors import ConfigError, InputError
from evomerge.optimizers import Optimizer
from evomerge.plugins.registry import did_you_mean, explain
from evomerge.scoring import Fitness
from evomerge.spaces import Space

T = TypeVar("T")

_OF_STAGES = ("space", "optimizer", "budget")  # what a search without stages has itself
_STAND_INS: dict[str, Any] = {
    "name": "x",
    "base": "x",
    "sources": {"x": "x"},
    "space": {},
    "fitness": {"tasks": ["x"]},
    "budget": {"evaluations": 1},
}


def attempt(problems: list[str], where: str, make: Callable[..., T], *args: Any) -> T | None:
    """What ``make`` gives, or None with its mistakes added to ``problems``."""
    try:
        return make(*args)
    except InputError as error:
        problems += [f"{where}: {problem}" if where else problem for problem in error.problems]
        return None


@dataclass(frozen=True, slots=True)
class Parts:
    """Makes parts, and gathers what is wrong with them.

    Attributes:
        where: the file, and the part of it.
        wrong: keys that have stand-ins, because they are wrong: ``space``, ``stages.0.space``.
        problems: all so far.
        place: of this part's own keys, e.g. ``stages.0.``.
    """

    where: str
    wrong: Collection[str]
    problems: list[str]
    place: str = ""

    def make(
        self, label: str, needs: Iterable[str], make: Callable[..., T], *args: Any
    ) -> T | None:
        """What ``make`` gives, or None where it or a key that it needs is wrong.

        Args:
            label: the key that mistakes are told of; empty where they name it themselves.
            needs: keys; those of this part itself begin with a dot.
        """
        keys = (self.place + key[1:] if key.startswith(".") else key for key in needs)
        if any(key in self.wrong for key in keys):
            return None
        where = f"{self.where}: {label}" if label else self.where
        return attempt(self.problems, where, make, *args)

    def within(self, label: str, place: str) -> Parts:
        """The same for a part of the file that has keys of its own."""
        return Parts(f"{self.where}: {label}", self.wrong, self.problems, place)


def validated(
    content: dict[str, Any], where: str, problems: list[str], lost: Collection[str]
) -> tuple[SearchFile, set[str]]:
    """The file, with stand-ins for the keys that are wrong, and which these are.

    Args:
        problems: what is wrong is added.
        lost: keys of which that was told already.
    """
    wrong = set(lost)
    try:
        return SearchFile.model_validate(_patched(content, wrong, stand_in=wrong)), wrong
    except ValidationError as error:
        problems += map(str, explain(error, SearchFile, file=where))
        wrong |= {_key(item["loc"]) for item in error.errors()}
    if "stages" in wrong:
        wrong |= set(_OF_STAGES)
    return SearchFile.model_validate(_patched(content, wrong, stand_in=_STAND_INS)), wrong


def _key(place: tuple[int | str, ...]) -> str:
    """The key that a mistake is in, of the search or of a stage."""
    depth = 3 if place[0] == "stages" and len(place) > 2 else 1
    return ".".join(map(str, place[:depth]))


def _patched(
    content: dict[str, Any], wrong: Collection[str], *, stand_in: Collection[str]
) -> dict[str, Any]:
    """The content without what is wrong, and with stand-ins for what has to be there."""
    kept = {key: value for key, value in content.items() if key not in wrong}
    staged = isinstance(kept.get("stages"), list)
    if staged:
        kept["stages"] = [
            _patched_stage(stage, index, wrong) if isinstance(stage, dict) else stage
            for index, stage in enumerate(kept["stages"])
        ]
    needed = {
        key: value
        for key, value in _STAND_INS.items()
        if key in stand_in and not (staged and key in _OF_STAGES)
    }
    return {**needed, **kept}


def _patched_stage(stage: dict[str, Any], index: int, wrong: Collection[str]) -> dict[str, Any]:
    kept = {key: value for key, value in stage.items() if f"stages.{index}.{key}" not in wrong}
    gone = {"name": f"stage-{index}", "space": {}, "budget": {"evaluations": 1}}
    needed = {key: value for key, value in gone.items() if f"stages.{index}.{key}" in wrong}
    return {**needed, **kept}


def check_parents(space: Space, optimizer: type[Optimizer], name: str) -> None:
    """Raise unless both space and optimizer make candidates of parents, or neither.

    Args:
        name: of the optimizer.
    """
    if optimizer.needs_parents and not space.needs_parents:
        raise ConfigError(
            f"{name} makes candidates of parents, which this space cannot cross. "
            "Set space: crossover."
        )
    if space.needs_parents and not optimizer.needs_parents:
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
