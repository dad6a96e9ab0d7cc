"""Recipes as evomerge's own YAML, which loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge.errors import Problem, RecipeError, shown
from evomerge.plugins.registry import explain
from evomerge.recipes.recipe import Recipe
from evomerge.recipes.scored import FILES, Recorded, cut
from evomerge.yaml_files import dump_yaml

FORMAT = "evomerge"
VERSION = 1

# from a model as it is written to its reference, or to the recipe where that is a recipe file
OpenModel = Callable[[str], str | Recipe]


def to_yaml(recipe: Recipe, files: Recorded | None = None) -> str:
    """YAML text from which `from_yaml` makes the same recipe, of the same digest.

    Args:
        files: with which it was scored; see `Scored`.
    """
    beside = {FILES: cut(files)} if files else {}
    text = dump_yaml({FORMAT: VERSION, **_content(recipe), **beside})
    return f"# digest {recipe.digest}\n{text}"


def from_yaml(content: dict[str, Any], where: str, open_: OpenModel | None = None) -> Recipe:
    """The recipe in a parsed YAML, with the recipes that stand in place of models.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.
        open_: called with every model as it is written, to read it if it is a recipe file.

    Raises:
        RecipeError: unknown keys and wrong values, all at once.
    """
    version = content.get(FORMAT)
    if version != VERSION:
        raise RecipeError(
            f"{where}: expected '{FORMAT}: {VERSION}' at the top, got {shown(version)}"
            ". A mergekit file has merge_method there."
        )
    keys = {key: value for key, value in content.items() if key != FILES}
    return _read(keys, (), where, open_ or (lambda model: model))


def validated(keys: dict[str, Any], where: str) -> Recipe:
    """A recipe from its keys.

    Raises:
        RecipeError: unknown keys and wrong values, all at once.
    """
    try:
        return Recipe.model_validate(keys)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, file=where)) from None


def is_recipe(path: Path) -> bool:
    """Whether a path looks like a recipe file rather than a model folder."""
    return path.is_file() and path.suffix in {".yaml", ".yml"}


def _content(recipe: Recipe) -> dict[str, Any]:
    """Keys and values in the order of `Recipe`, without most that are at their defaults."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    for name in ("slices", "scales", "modules", "allow_missing", "statistics", "experimental"):
        if not content[name]:
            del content[name]
    content["base"] = _model(recipe.base)
    content["sources"] = {name: _model(model) for name, model in recipe.sources.items()}
    if not isinstance(recipe.tokenizer, str | None):
        content["tokenizer"] = recipe.tokenizer.model_dump(exclude_defaults=True)
    return content


def _model(model: str | Recipe) -> Any:
    return model if isinstance(model, str) else _content(model)


def _read(content: dict[str, Any], path: tuple[str, ...], file: str, open_: OpenModel) -> Recipe:
    """One recipe, after the recipes in it.

    Args:
        path, file: where it is, for messages.
    """
    keys = {key: value for key, value in content.items() if key != FORMAT}
    problems: list[Problem] = []

    def model(value: Any, *key: str) -> Any:
        try:
            if isinstance(value, dict):
                version = value.get(FORMAT, VERSION)
                if version != VERSION:
                    text = f"expected {VERSION}, got {shown(version)}"
                    problems.append(Problem((*path, *key, FORMAT), text, file=file))
                return _read(value, (*path, *key), file, open_)
            return open_(value) if isinstance(value, str) else value
        except RecipeError as error:
            problems.extend(error.details)
            return "a model"  # so that the rest can be looked at

    if keys.get("base") is None:
        keys.pop("base", None)
    else:
        keys["base"] = model(keys["base"], "base")
    if isinstance(keys.get("sources"), dict):
        keys["sources"] = {
            name: model(value, "sources", name) for name, value in keys["sources"].items()
        }
    try:
        recipe = Recipe.model_validate(keys)
    except ValidationError as error:
        problems += explain(error, Recipe, *path, file=file)
    if problems:
        raise RecipeError(problems)
    return recipe
