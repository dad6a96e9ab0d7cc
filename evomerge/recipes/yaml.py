"""A recipe as evomerge's own YAML: everything, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge.documents import dump_yaml
from evomerge.errors import RecipeError
from evomerge.recipes.recipe import Recipe
from evomerge.registry import explain

FORMAT = "evomerge"
VERSION = 1


def to_yaml(recipe: Recipe) -> str:
    """YAML text that `from_yaml` turns into the same recipe, digest and all."""
    content = recipe.model_dump(exclude_none=True)
    text = dump_yaml({FORMAT: VERSION, **content})
    return f"# digest {recipe.digest}\n{text}"


def from_yaml(content: dict[str, Any], where: str) -> Recipe:
    """The recipe that a parsed YAML holds.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.

    Raises:
        RecipeError: unknown keys and wrong values, all at once.
    """
    keys = dict(content)
    version = keys.pop(FORMAT, None)
    if version != VERSION:
        raise RecipeError(f"{where}: expected '{FORMAT}: {VERSION}' at the top, got {version!r}")
    try:
        return Recipe.model_validate(keys)
    except ValidationError as error:
        raise RecipeError(explain(error, f"{where}: ", Recipe)) from None


def is_recipe(path: Path) -> bool:
    """Whether a path looks like a recipe file rather than a model folder."""
    return path.is_file() and path.suffix in {".yaml", ".yml"}
