"""What a recipe was scored with: digests of its models' files, kept beside it in its YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from evomerge.errors import Problem, RecipeError
from evomerge.recipes._stack import BASE
from evomerge.recipes.recipe import Recipe

FILES = "files"
_DIGITS = 16  # of a digest in hex, as a YAML has it

Recorded = Mapping[str, Mapping[str, str]]  # key of a recipe that names a model, file, digest


class Scored(NamedTuple):
    """A recipe, and the files that its scores are of.

    Attributes:
        files: by the key that names them (``base``, ``sources.math``): file to digest.
        cure: what to do where they differ.
    """

    recipe: Recipe
    files: Recorded
    cure: str


def cut(files: Recorded) -> dict[str, dict[str, str]]:
    """The digests as short as a YAML has them."""
    return {
        key: {name: digest[:_DIGITS] for name, digest in of.items()} for key, of in files.items()
    }


def read_scored(recipe: Recipe, content: Mapping[str, Any], where: str) -> Scored:
    """The recipe of a parsed YAML with the files in it, if any.

    Raises:
        RecipeError: they are no digests by file by key.
    """
    files = content.get(FILES, {})
    valid = isinstance(files, dict) and all(
        isinstance(key, str)
        and isinstance(of, dict)
        and all(isinstance(n, str) and _is_digest(digest) for n, digest in of.items())
        for key, of in files.items()
    )
    if not valid:
        text = f"expected {_DIGITS} or more hexadecimal digits by file by key of a model."
        raise RecipeError(Problem((FILES,), text, "Remove this key.", file=where))
    cure = f"Make it as it was again, or remove the key {FILES} from {where}."
    return Scored(recipe, files, cure)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= _DIGITS and not value.strip("0123456789abcdef")


def references(recipe: Recipe, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and reference of every model and every folder of statistics, within recipes too."""
    named = {BASE: recipe.base, **{f"sources.{n}": model for n, model in recipe.sources.items()}}
    for key, model in named.items():
        if isinstance(model, Recipe):
            yield from references(model, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", model
    yield from ((f"{prefix}statistics.{n}", folder) for n, folder in recipe.statistics.items())
