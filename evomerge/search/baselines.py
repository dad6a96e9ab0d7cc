"""Generation zero: what every search is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from evomerge.operators import get
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.types import Role


class Baseline(NamedTuple):
    """A recipe that the search has to beat, and what it is called."""

    role: Role
    label: str
    recipe: Recipe


def baselines(
    context: SearchContext, paper_defaults: Iterable[tuple[str, Sequence[str]]]
) -> list[Baseline]:
    """The base, each source alone, their average, and operators with their papers' defaults.

    Equal recipes are listed once. Models that differ in their number of blocks have no average.

    Args:
        context: the models.
        paper_defaults: names of operators, each with the names of the sources that it merges.
    """
    by_digest: dict[str, Baseline] = {}
    for baseline in _all(context, paper_defaults):
        by_digest.setdefault(baseline.recipe.digest, baseline)
    return list(by_digest.values())


def _all(
    context: SearchContext, paper_defaults: Iterable[tuple[str, Sequence[str]]]
) -> Iterator[Baseline]:
    if context.base not in context.sources.values():  # else it is compared as a source
        yield Baseline("base", "base", _alone(context, "base", context.base))
    for name, model in context.sources.items():
        yield Baseline("source", f"source: {name}", _alone(context, name, model))
    if not context.mixed:
        average = context.recipe("linear", {"weight": 1.0})
        yield Baseline("average", "uniform average", average)
    for name, sources in paper_defaults:
        some = replace(context, sources={source: context.sources[source] for source in sources})
        on = "" if some.sources == context.sources else f" on {' + '.join(sources)}"
        recipe = some.recipe(name, get(name).paper_defaults)
        yield Baseline("paper_defaults", f"{name}, paper's defaults{on}", recipe)


def _alone(context: SearchContext, name: str, model: str | Recipe) -> Recipe:
    """One model as it is: merged with nothing, or all of its blocks where no other model fits."""
    if not context.mixed or context.models is None:
        return replace(context, sources={name: model}).recipe("linear", {"weight": 1.0})
    opened = {"base": context.models.base, **context.models.sources}
    one = replace(context, base=model, sources={name: model})
    return one.recipe("passthrough", stack={"slices": [{name: [0, opened[name].layers]}]})
