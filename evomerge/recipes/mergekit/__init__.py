"""Recipes as mergekit YAML: written for mergekit 0.1.5, and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evomerge.errors import RecipeError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit.read import from_mergekit
from evomerge.recipes.mergekit.write import to_mergekit
from evomerge.recipes.places import PlacesOf
from evomerge.recipes.yaml import FORMAT

__all__ = ["from_documents", "from_mergekit", "is_mergekit", "to_mergekit"]


def is_mergekit(content: dict[str, Any]) -> bool:
    """Whether a parsed YAML is mergekit's rather than evomerge's own."""
    return "merge_method" in content and FORMAT not in content


def from_documents(
    documents: Sequence[dict[str, Any]],
    where: str,
    layers_of: Callable[[str], int],
    places_of: PlacesOf | None = None,
) -> Recipe:
    """The recipe of the YAML documents of ``mergekit-multimerge``, as of a single one.

    A model that has the ``name`` of a document is the recipe of that document. The document
    without a name is the result; where all have one, the last.

    Args:
        documents: parsed.
        where, layers_of, places_of: as for `from_mergekit`.

    Raises:
        RecipeError: as `from_mergekit`; two documents of one name, or one made of itself.
    """
    if len(documents) == 1:
        return from_mergekit(documents[0], where, layers_of, places_of)
    names = [content.get("name") for content in documents]
    problems = [
        f"{where}: {names.count(name)} documents are called {name!r}. Rename all but one."
        if name is not None
        else f"{where}: {names.count(None)} documents have no name. Give all but one a name."
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if problems:
        raise RecipeError(problems)
    by_name = {str(name): content for name, content in zip(names, documents, strict=True)}
    done: dict[str, Recipe] = {}

    def recipe(name: str, chain: tuple[str, ...]) -> Recipe:
        if name in chain:
            shown = " -> ".join((*chain, name))
            raise RecipeError(f"{where}: the merge is made of itself: {shown}. Change a model.")
        if name not in done:
            content = by_name[name]
            inner = [n for n in by_name if n != str(None) and n in _models(content)]
            named = {n: recipe(n, (*chain, name)) for n in inner}
            label = where if content.get("name") is None else f"{where}: {name}"
            done[name] = from_mergekit(content, label, layers_of, places_of, named)
        return done[name]

    return recipe(str(None) if None in names else str(names[-1]), ())


def _models(content: Any) -> set[str]:
    """Every text in a YAML that may be a model's name."""
    if isinstance(content, dict):
        keys = (key for key in content if key not in ("name", "merge_method", "dtype"))
        return set().union(*(_models(content[key]) for key in keys))
    if isinstance(content, list):
        return set().union(*map(_models, content))
    return {content} if isinstance(content, str) else set()
