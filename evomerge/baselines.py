"""Generation zero: what every search is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from evomerge.operators import get
from evomerge.recipes import Recipe
from evomerge.spaces import Ground


def baselines(ground: Ground, operators: Sequence[str]) -> Iterator[tuple[str, Recipe]]:
    """Label and recipe of the base, each source alone, their average, and textbook settings.

    Args:
        ground: the models.
        operators: whose textbook settings to try.
    """
    # a base that is a source too is told once, as the source
    alone = {} if ground.base in ground.sources.values() else {"base": ground.base}
    labels = {"base": "base"} | {name: f"source: {name}" for name in ground.sources}
    recipes = [
        (labels[name], replace(ground, sources={name: model}).recipe("linear", {"weight": 1.0}))
        for name, model in {**alone, **ground.sources}.items()
    ]
    recipes.append(("uniform average", ground.recipe("linear", {"weight": 1.0})))
    recipes += [(f"textbook {name}", ground.recipe(name, get(name).textbook)) for name in operators]
    seen: set[str] = set()
    for label, recipe in recipes:
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield label, recipe
