"""Generation zero: what every search is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from evomerge.operators import get
from evomerge.recipes import Recipe
from evomerge.spaces import Ground


def baselines(
    ground: Ground, textbooks: Iterable[tuple[str, Sequence[str]]]
) -> Iterator[tuple[str, Recipe]]:
    """Label and recipe of the base, each source alone, their average, and textbook settings.

    Models that differ in their number of blocks have no average.

    Args:
        ground: the models.
        textbooks: operators whose textbook settings to try, and on which sources.
    """
    # a base that is a source too is told once, as the source
    alone = {} if ground.base in ground.sources.values() else {"base": ground.base}
    labels = {"base": "base"} | {name: f"source: {name}" for name in ground.sources}
    recipes = [
        (labels[name], _alone(ground, name, model))
        for name, model in {**alone, **ground.sources}.items()
    ]
    if not ground.mixed:
        recipes.append(("uniform average", ground.recipe("linear", {"weight": 1.0})))
    for name, sources in textbooks:
        some = replace(ground, sources={source: ground.sources[source] for source in sources})
        on = "" if some.sources == ground.sources else f" on {' + '.join(sources)}"
        recipes.append((f"textbook {name}{on}", some.recipe(name, get(name).textbook)))
    seen: set[str] = set()
    for label, recipe in recipes:
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield label, recipe


def _alone(ground: Ground, name: str, model: str | Recipe) -> Recipe:
    """One model as it is: merged with nothing, or where no other fits on it, all of its blocks."""
    if not ground.mixed or ground.models is None:
        return replace(ground, sources={name: model}).recipe("linear", {"weight": 1.0})
    opened = {"base": ground.models.base, **ground.models.sources}
    one = replace(ground, base=model, sources={name: model})
    return one.recipe("passthrough", stack={"slices": [{name: [0, opened[name].layers]}]})
