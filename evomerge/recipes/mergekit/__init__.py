"""mergekit's YAML: read as recipes, and written for mergekit 0.1.5."""

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
    """The recipe in a mergekit file of one YAML document, or of several (``mergekit-multimerge``).

    Where a document names a model as another one is called, it means what that one merges. The
    result is the document without a name; where all have one, the last.

    Args:
        documents: parsed.
        where, layers_of, places_of: as for `from_mergekit`.

    Raises:
        RecipeError: as by `from_mergekit`; two documents of one name, or one made of itself.
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
    by_name = dict(zip(names, documents, strict=True))
    done: dict[Any, Recipe] = {}

    def recipe(name: Any, chain: tuple[Any, ...]) -> Recipe:
        if name in chain:
            shown = " -> ".join(map(str, (*chain, name)))
            raise RecipeError(f"{where}: the merge is made of itself: {shown}. Change a model.")
        if name not in done:
            content = by_name[name]
            models = _texts(content)
            inner = [n for n in by_name if n is not None and str(n) in models]
            named = {str(n): recipe(n, (*chain, name)) for n in inner}
            label = where if name is None else f"{where}: {name}"
            done[name] = from_mergekit(content, label, layers_of, places_of, named)
        return done[name]

    return recipe(None if None in names else names[-1], ())


def _texts(content: Any) -> set[str]:
    """Every text in a YAML that may name a model."""
    if isinstance(content, dict):
        keys = (key for key in content if key not in ("name", "merge_method", "dtype"))
        return set().union(*(_texts(content[key]) for key in keys))
    if isinstance(content, list):
        return set().union(*map(_texts, content))
    return {content} if isinstance(content, str) else set()
