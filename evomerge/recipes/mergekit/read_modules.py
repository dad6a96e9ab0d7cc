"""What each part of a mergekit YAML with ``modules`` is merged from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from evomerge.recipes.mergekit.modules import DEFAULT, prefixes, under
from evomerge.recipes.mergekit.read_models import Model, ModelReader
from evomerge.recipes.places import Places


class Merge(NamedTuple):
    """One of the merges that a YAML asks for.

    Attributes:
        modules: prefixes of the tensors that it is for; () for all.
        keys: hold ``models`` or ``slices``.
        path: of the keys in the YAML, with a dot at its end.
    """

    modules: tuple[str, ...]
    keys: dict[str, Any]
    path: str


def merges(
    content: dict[str, Any],
    base: Model | None,
    reader: ModelReader,
    places: Callable[[Model], Places],
) -> Iterator[Merge]:
    """Each merge, in the order of the YAML; modules that are merged alike are one.

    Args:
        content: the parsed YAML.
        base: what ``base_model`` names.
        places: of the tensors of a model, asked for if there are modules besides `DEFAULT`.

    Raises:
        RecipeError: there is nothing to merge.
    """
    modules = content.get("modules")
    if modules is None:
        yield Merge((), content, "")
        return
    groups = _groups(content, base, reader)
    if list(modules) == [DEFAULT]:
        yield Merge((), groups[0][1], f"modules.{DEFAULT}.")
        return
    first = base or _first_model(groups[0][1], f"modules.{groups[0][0][0]}.", reader)
    names = places(first)
    for chosen, keys in groups:
        starts: tuple[str, ...] = ()
        for module in chosen:
            try:
                starts += prefixes(module, modules, names)
            except ValueError as error:
                reader.problems.add(f"modules.{module}", str(error))
        if len(groups) == 1 and all(under(name, starts) for name in names):
            starts = ()
        yield Merge(starts, keys, f"modules.{chosen[0]}.")


def _groups(
    content: dict[str, Any], base: Model | None, reader: ModelReader
) -> list[tuple[list[str], dict[str, Any]]]:
    """Names of modules with the same keys, and these; without modules that are the base's."""
    modules, problems = content["modules"], reader.problems
    if not isinstance(modules, dict) or not modules:
        problems.add("modules", "expected names of modules and what they are merged from")
        modules = {}
    if "models" in content or "slices" in content:
        problems.add("modules", "give either modules, models or slices")
    groups: list[tuple[list[str], dict[str, Any]]] = []
    for module, definition in modules.items():
        known = ("models", "slices", "parameters")
        keys = problems.check_keys(definition, f"modules.{module}", known)
        if _copies_base(keys, base, reader):
            continue
        names = next((names for names, other in groups if other == keys), [])
        if not names:
            groups.append((names, keys))
        names.append(str(module))
    if modules and not groups:
        problems.add("modules", "expected one with a model besides the base")
    problems.stop()
    return groups


def _copies_base(keys: dict[str, Any], base: Model | None, reader: ModelReader) -> bool:
    """Whether a module is the base's, listed because mergekit writes none that are not."""
    models = keys.get("models")
    if not (isinstance(models, list) and len(models) == 1 and isinstance(models[0], dict)):
        return False
    plain = models[0].get("parameters") in (None, {"weight": 1})
    return base is not None and plain and reader.model(models[0].get("model"), "") == base


def _first_model(keys: dict[str, Any], path: str, reader: ModelReader) -> Model:
    slices = reader.slices(keys, path)
    reader.problems.stop()
    return slices[0].models[0].model
