"""A recipe from a mergekit file: one YAML document, or several that name one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from evomerge.errors import RecipeError, shown
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit.read import Facts, Note, Reader, ignore
from evomerge.recipes.places import PlacesOf
from evomerge.recipes.yaml import FORMAT


def from_mergekit(
    content: dict[str, Any],
    where: str,
    layers_of: Callable[[str], int],
    places_of: PlacesOf | None = None,
    note: Note = ignore,
) -> Recipe:
    """The recipe of one mergekit YAML document.

    Gradients become one value per block, filters become roles where they select one. Sources are
    named after the last part of their path. What differs from mergekit 0.1.5 even with ``dialect:
    mergekit``: arithmetic is float32 whatever ``dtype`` says; random masks are evomerge's own;
    without ``dtype`` and ``out_dtype`` weights are written in bfloat16, by mergekit in the dtype
    of the sources.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.
        layers_of: gives a model's number of blocks; called only for gradients or slices.
        places_of: gives the place of every tensor of a model; called only for modules, or if
            slices set a parameter differently.
        note: is given a sentence for every key and parameter that mergekit ignores.

    Raises:
        RecipeError: wrong values, and everything that a recipe cannot say, at once.
    """
    return from_documents([content], where, layers_of, places_of, note)


def is_mergekit(content: dict[str, Any]) -> bool:
    """Whether a parsed YAML is mergekit's rather than evomerge's own."""
    return "merge_method" in content and FORMAT not in content


def from_documents(
    documents: Sequence[dict[str, Any]],
    where: str,
    layers_of: Callable[[str], int],
    places_of: PlacesOf | None = None,
    note: Note = ignore,
) -> Recipe:
    """The recipe in a mergekit file of one YAML document, or of several (``mergekit-multimerge``).

    Where a document names a model as another one is called, it means what that one merges. The
    result is the document without a name; where all have one, the last.

    Args:
        documents: parsed.
        where, layers_of, places_of, note: as for `from_mergekit`.

    Raises:
        RecipeError: as by `from_mergekit`; two documents of one name, or one made of itself.
    """
    facts = Facts(cache(layers_of), None if places_of is None else cache(places_of), note)
    if len(documents) == 1:
        return Reader(documents[0], where, facts, {}).recipe()
    names = [content.get("name") for content in documents]
    if odd := [name for name in names if name is not None and not isinstance(name, str)]:
        raise RecipeError(f"{where}: name: expected a text, got {shown(odd[0])}. Put one there.")
    problems = [
        f"{where}: {names.count(name)} documents are called {shown(name)}. Rename all but one."
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
            done[name] = Reader(content, label, facts, named).recipe()
        return done[name]

    return recipe(None if None in names else names[-1], ())


def _texts(content: Any) -> set[str]:
    """Every text in a YAML that may name a model."""
    if isinstance(content, dict):
        keys = (key for key in content if key not in ("name", "merge_method", "dtype"))
        return set().union(*(_texts(content[key]) for key in keys))
    if isinstance(content, list):
        return set().union(*map(_texts, content))
    # a model may have an adapter or a revision behind its name
    return {content, *re.split(r"[+@]", content)[:1]} if isinstance(content, str) else set()
