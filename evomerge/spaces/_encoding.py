"""What keeps a recipe from being one of a space: where `Space.encode` looks first."""

from __future__ import annotations

from collections.abc import Iterable

from evomerge.errors import Problem, listed, shown
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext


def of_other_models(recipe: Recipe, context: SearchContext) -> list[Problem]:
    """Where a recipe has another base or other sources than a search; their order may differ."""
    problems = []
    if recipe.base != context.base:
        problems.append(_other(("base",), recipe.base, context.base))
    if recipe.sources.keys() != context.sources.keys():
        text = f"{listed(list(recipe.sources))}, and those of this stage are "
        problems.append(Problem(("sources",), f"{text}{listed(list(context.sources))}."))
    return problems + [
        _other(("sources", name), recipe.sources[name], model)
        for name, model in context.sources.items()
        if name in recipe.sources and recipe.sources[name] != model
    ]


def of_other_kind(recipe: Recipe, keys: Iterable[str]) -> list[Problem]:
    """Keys of a recipe that no recipe of a space has.

    Args:
        keys: of recipes, those to look at.
    """
    text = "no recipe of this space has this key."
    return [
        Problem((key,), text)
        for key in keys
        if getattr(recipe, key) != Recipe.model_fields[key].default
    ]


def _other(path: tuple[str, ...], there: object, here: object) -> Problem:
    words = [one if isinstance(one, str) else "a recipe" for one in (there, here)]
    return Problem(path, f"{shown(words[0], 300)}, and here it is {shown(words[1], 300)}.")
