"""The points from which a stage's search may start, as its YAML gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge.config.schema import START_WORDS
from evomerge.errors import ConfigError, InputError, Problem
from evomerge.files import absolute
from evomerge.optimizers import Optimizer
from evomerge.plugins.registry import explain
from evomerge.recipes import Recipe
from evomerge.spaces import Space
from evomerge.types import Proposal
from evomerge.weights.library import read_recipe

_RECIPE = "recipe.yaml"


def read_starts(written: Any, folder: Path) -> Any:
    """The starts with recipes in place of their files: a run does not depend on these any more.

    Args:
        written: what a YAML has under ``start``.
        folder: that a relative path is seen from.

    Raises:
        ConfigError: files that are no recipes, and folders without one; all of them.
    """
    every = written if isinstance(written, list) else [written]
    found: list[Any] = []
    problems: list[Problem] = []
    for one in every:
        if not isinstance(one, str) or one in START_WORDS:
            found.append(one)
            continue
        try:
            found.append({"label": one, "recipe": _recipe(one, folder)})
        except InputError as error:
            problems += error.details
    if problems:
        raise ConfigError(problems)
    return found


def _recipe(path: str, folder: Path) -> dict[str, Any]:
    """The keys of the recipe in a file, or of the best one of the run in a folder."""
    file = absolute(path, folder)
    if not path.strip():
        text, cure = "an empty path.", "Name the YAML of a recipe or the folder of a run."
        raise ConfigError(Problem((), text, cure))
    if file.is_dir():
        file = file / _RECIPE
        if not file.is_file():
            text = f"{path}: no {_RECIPE} in it, which a run writes when it ends."
            cure = f"Write it: evomerge export {file.parent} -o {file}"
            raise ConfigError(Problem((), text, cure))
    elif not file.is_file():
        text = f"{path}: no such file."
        cure = "Name the YAML of a recipe or the folder of a run; or say auto, or initial."
        raise ConfigError(Problem((), text, cure))
    return read_recipe(file).model_dump(mode="json", exclude_defaults=True)


def given_starts(
    written: Sequence[str | dict[str, Any]], space: Space, optimizer: Optimizer, name: str
) -> tuple[Proposal, ...]:
    """The genomes of all starts but those of ``auto``.

    Args:
        written: as `read_starts` leaves them; none where the search does not say.
        name: of the optimizer.

    Raises:
        ConfigError: all that the space has no genome for, or an optimizer that begins nowhere.
    """
    if not written or written == ("initial",):
        return ()
    if not optimizer.takes_start:
        text, cure = f"{name} begins at no point.", "Take optimizer: cmaes, or remove this key."
        raise ConfigError(Problem((), text, cure, about=("optimizer",)))
    found: list[Proposal] = []
    problems: list[Problem] = []
    for number, one in enumerate(written):
        if one == "initial":
            found.append(Proposal("initial", space.initial()))
        if isinstance(one, str):
            continue
        label = str(one.get("label", "given" if len(written) == 1 else f"given {number + 1}"))
        try:
            if "recipe" in one:
                genome = space.encode(Recipe.model_validate(one["recipe"]))
            else:
                genome = space.with_values(one)
            found.append(Proposal(label, genome))
        except ConfigError as error:
            place = [] if len(written) == 1 else [label if "recipe" in one else number]
            problems += [problem.under(*place) for problem in error.details]
        except ValidationError as error:
            problems += explain(error, Recipe, number, "recipe")
    if problems:
        raise ConfigError(problems)
    genomes = [genome for _, genome in found]
    return tuple(one for n, one in enumerate(found) if one.genome not in genomes[:n])
