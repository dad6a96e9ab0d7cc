"""Generation zero: what every search is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from evomerge.operators import get
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext


def baselines(
    context: SearchContext, paper_defaults: Iterable[tuple[str, Sequence[str]]]
) -> Iterator[tuple[str, Recipe]]:
    """Label and recipe of the base, each source alone, their average, and papers' defaults.

    Models that differ in their number of blocks have no average.

    Args:
        context: the models.
        paper_defaults: operators whose papers' defaults to try, and on which sources.
    """
    # a base that is a source too is told once, as the source
    alone = {} if context.base in context.sources.values() else {"base": context.base}
    labels = {"base": "base"} | {name: f"source: {name}" for name in context.sources}
    recipes = [
        (labels[name], _alone(context, name, model))
        for name, model in {**alone, **context.sources}.items()
    ]
    if not context.mixed:
        recipes.append(("uniform average", context.recipe("linear", {"weight": 1.0})))
    for name, sources in paper_defaults:
        some = replace(context, sources={source: context.sources[source] for source in sources})
        on = "" if some.sources == context.sources else f" on {' + '.join(sources)}"
        recipes.append(
            (f"{name}, paper's defaults{on}", some.recipe(name, get(name).paper_defaults))
        )
    seen: set[str] = set()
    for label, recipe in recipes:
        if recipe.digest not in seen:
            seen.add(recipe.digest)
            yield label, recipe


def _alone(context: SearchContext, name: str, model: str | Recipe) -> Recipe:
    """One model as it is: merged with nothing, or where no other fits on it, all of its blocks."""
    if not context.mixed or context.models is None:
        return replace(context, sources={name: model}).recipe("linear", {"weight": 1.0})
    opened = {"base": context.models.base, **context.models.sources}
    one = replace(context, base=model, sources={name: model})
    return one.recipe("passthrough", stack={"slices": [{name: [0, opened[name].layers]}]})
