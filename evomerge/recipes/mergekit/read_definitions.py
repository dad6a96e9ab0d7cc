"""What each part of a mergekit YAML with ``modules`` is merged from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from evomerge.recipes.mergekit.modules import DEFAULT, prefixes, under
from evomerge.recipes.mergekit.read_entries import Entries, Model
from evomerge.recipes.mergekit.read_settings import check_keys
from evomerge.recipes.places import Places


class Definition(NamedTuple):
    """One merge.

    Attributes:
        modules: prefixes of the tensors that it is for; () for all.
        keys: hold ``models`` or ``slices``.
        path: of the keys in the YAML, with a dot at its end.
    """

    modules: tuple[str, ...]
    keys: dict[str, Any]
    path: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """Finds the merges of a YAML; modules that are defined alike are one.

    Args:
        content: the parsed YAML.
        places: of the tensors of a model.
        stop: raises what was found to be wrong.
    """

    content: dict[str, Any]
    entries: Entries
    places: Callable[[Model], Places]
    stop: Callable[[], None]

    def all(self, base: Model | None) -> Iterator[Definition]:
        """Each merge, in the order of the YAML."""
        modules = self.content.get("modules")
        if modules is None:
            yield Definition((), self.content, "")
            return
        groups = self._groups(modules, base)
        if list(modules) == [DEFAULT]:
            yield Definition((), groups[0][1], f"modules.{DEFAULT}.")
            return
        first = base or self._first_model(groups[0][1], f"modules.{groups[0][0][0]}.")
        names = self.places(first)
        for chosen, keys in groups:
            found = tuple(p for module in chosen for p in self._prefixes(module, modules, names))
            if len(groups) == 1 and all(under(name, found) for name in names):
                found = ()
            yield Definition(found, keys, f"modules.{chosen[0]}.")

    def _groups(self, modules: Any, base: Model | None) -> list[tuple[list[str], dict[str, Any]]]:
        """Names of modules that are defined alike, with their keys; not those that are the base's.

        Raises:
            RecipeError: there is nothing to merge.
        """
        problem = self.entries.problem
        if not isinstance(modules, dict) or not modules:
            problem("modules", "expected names of modules and what they are merged from")
            modules = {}
        if "models" in self.content or "slices" in self.content:
            problem("modules", "give either modules, models or slices")
        groups: list[tuple[list[str], dict[str, Any]]] = []
        for module, definition in modules.items():
            known = ("models", "slices", "parameters")
            keys = check_keys(definition, f"modules.{module}", known, problem)
            if self._copies(keys, base):
                continue
            same = next((names for names, other in groups if other == keys), None)
            if same is None:
                groups.append(([str(module)], keys))
            else:
                same.append(str(module))
        if modules and not groups:
            problem("modules", "expected one with a model besides the base")
        self.stop()
        return groups

    def _copies(self, keys: dict[str, Any], base: Model | None) -> bool:
        """Whether a module is the base's: mergekit writes none that are not listed."""
        models = keys.get("models")
        if not (isinstance(models, list) and len(models) == 1 and isinstance(models[0], dict)):
            return False
        plain = models[0].get("parameters") in (None, {"weight": 1})
        return base is not None and plain and self.entries.model(models[0].get("model"), "") == base

    def _prefixes(self, module: str, modules: Mapping[str, Any], names: Places) -> tuple[str, ...]:
        try:
            return prefixes(module, modules, names)
        except ValueError as error:
            self.entries.problem(f"modules.{module}", str(error))
            return ()

    def _first_model(self, keys: dict[str, Any], path: str) -> Model:
        runs = self.entries.runs(keys, path)
        self.stop()
        return runs[0].parts[0].model
