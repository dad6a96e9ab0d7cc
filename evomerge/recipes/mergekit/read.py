"""A recipe from mergekit YAML that merges to the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from evomerge.errors import RecipeError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.recipes._stack import BASE
from evomerge.recipes.mergekit.methods import METHODS
from evomerge.recipes.mergekit.read_definitions import Definitions
from evomerge.recipes.mergekit.read_entries import (
    Entries,
    Model,
    Part,
    Run,
    are_whole,
    shown,
    slices_of,
    source_names,
    sources_of,
)
from evomerge.recipes.mergekit.read_parameters import Parameters, Source
from evomerge.recipes.mergekit.read_settings import Scope, check_keys
from evomerge.recipes.mergekit.spread import Spread
from evomerge.recipes.mergekit.tokens import read_tokenizer
from evomerge.recipes.places import (
    Places,
    PlacesOf,
    layers_of_model,
    places_of_model,
)
from evomerge.recipes.yaml import validated

DIALECT = "dialect"

_TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name", DIALECT,
)  # fmt: skip
_DEFAULT_DTYPE = "bfloat16"
_COUNTS = {1: "one more", 2: "two more"}


def from_mergekit(
    content: dict[str, Any],
    where: str,
    layers_of: Callable[[str], int],
    places_of: PlacesOf | None = None,
    named: Mapping[str, Recipe] | None = None,
) -> Recipe:
    """The recipe of a mergekit YAML.

    Gradients become one value per block, filters become roles where they are one. What differs
    from mergekit 0.1.5 even with ``dialect: mergekit``: arithmetic is float32, whatever ``dtype``
    says; random masks are evomerge's own; without ``dtype`` and ``out_dtype`` the weights are
    written in bfloat16, mergekit writes what the sources have.
    Sources are named after the last part of their path.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.
        layers_of: model to its number of blocks; asked only if there are gradients or slices.
        places_of: model to the place of every tensor; asked only if there are modules, or if
            slices set a parameter differently.
        named: recipes that stand in place of models of that name.

    Raises:
        RecipeError: unknown keys, and everything that a recipe cannot say, at once.
    """
    name = str(content.get("merge_method"))
    if name not in METHODS:
        known = did_you_mean(name, METHODS)
        raise RecipeError(f"{where}: merge_method: {name!r} cannot be read.{known}")
    return _Reader(content, where, layers_of, places_of, named or {}).recipe()


class _Reader:
    """One import, problems gathered."""

    def __init__(
        self,
        content: dict[str, Any],
        where: str,
        layers_of: Callable[[str], int],
        places_of: PlacesOf | None,
        named: Mapping[str, Recipe],
    ) -> None:
        self.content, self.where, self.named = content, where, named
        self.name: str = content["merge_method"]
        self.method = METHODS[self.name]
        self.dialect = content.get(DIALECT) == "mergekit"
        self.layers_of = cache(layers_of)
        self.places_of = cache(places_of) if places_of is not None else None
        self.problems: list[str] = []
        self.entries = Entries(named, self._problem)

    def recipe(self) -> Recipe:
        """The recipe, or one error with all problems."""
        check_keys(self.content, "", _TOP, self._problem)
        if self.content.get(DIALECT, "mergekit") != "mergekit":
            self._problem(DIALECT, f"expected mergekit, got {self.content[DIALECT]!r}")
        given = self.content.get("base_model")
        base = None if given is None else self.entries.model(given, "base_model")
        found = Definitions(self.content, self.entries, self._places, self._stop)
        definitions = list(found.all(base))
        inner: Recipe | None = None
        for number, (modules, keys, path) in enumerate(definitions):
            merge = self._merge(keys, path, base)
            self._stop()
            last = number == len(definitions) - 1
            merge |= {"modules": modules, "dtype": self._dtype() if last else "float32"}
            if inner is not None:
                merge["base"] = inner  # whose other modules are the base's, exactly
            if last and self.content.get("chat_template"):
                merge["chat_template"] = str(self.content["chat_template"])
            inner = validated(merge, self.where)
        self._stop()
        assert inner is not None
        return inner

    def _stop(self) -> None:
        if self.problems:
            raise RecipeError(dict.fromkeys(self.problems))

    def _problem(self, path: str, sentence: str) -> None:
        self.problems.append(f"{self.where}: {path}: {sentence}")

    def _dtype(self) -> str:
        dtype = self.content.get("out_dtype") or self.content.get("dtype") or _DEFAULT_DTYPE
        return str(dtype).removeprefix("torch.")

    # One merge

    def _merge(self, keys: dict[str, Any], path: str, base: Model | None) -> dict[str, Any]:
        """The fields of a recipe, but for modules, dtype and chat template."""
        runs = self.entries.runs(keys, path)
        for number, run in enumerate(runs):
            if run.base is not None and run.base != (base or run.base):
                self._problem(
                    f"{path}slices.{number}.base_model",
                    "evomerge has one base for all slices. Merge the slices with another base "
                    "first, and give the result as a model",
                )
            base = base or run.base
        if not runs or not all(run.parts and all(p.model for p in run.parts) for run in runs):
            self._stop()
        relative = base is not None
        if self.method.base == "required" and base is None:
            self._problem("base_model", f"{self.name} needs one")
        first = base or runs[0].parts[0].model
        runs = [self._with_base(run, base) for run in runs]
        chosen = [sources_of(run, self.name, self.method, first if relative else None)
                  for run in runs]  # fmt: skip
        for number, parts in enumerate(chosen):
            at = f"slices.{number}.sources" if "slices" in keys else "models"
            self._check_count(parts, base, f"{path}{at}")
        if not all(chosen):
            self._stop()
        sources = source_names(chosen, self.named)
        fields: dict[str, Any] = {
            "base": first,
            "sources": {name: model for name, model, _ in sources},
            "operator": self.method.operator,
        }
        if "slices" in keys:
            fields["slices"] = self._slices(runs, chosen, sources, first)
        shared: list[Scope] = [("parameters", self.content.get("parameters"))]
        if path:
            shared.insert(0, (f"{path}parameters", keys.get("parameters")))
        spread = Spread(lambda: layers_of_model(first, self.layers_of), lambda: self._places(first))
        fields["parameters"] = Parameters(
            self.name,
            self.method,
            runs,
            chosen,
            sources,
            shared,
            spread,
            self.dialect,
            self._problem,
        ).read(relative)
        fields["tokenizer"] = self._tokenizer(first, sources)
        return fields

    def _with_base(self, run: Run, base: Model | None) -> Run:
        """The base among ``models``, where mergekit adds it."""
        if run.length is not None or base is None or any(p.model == base for p in run.parts):
            return run
        return run._replace(parts=(*run.parts, Part(base, ("base_model", None), listed=False)))

    def _check_count(self, parts: Sequence[Part], base: Model | None, path: str) -> None:
        """As mergekit's input contracts."""
        least, most = self.method.least, self.method.most
        others = [p for p in parts if p.model != base or p.copy]
        if self.method.base == "ignored":
            if most is not None and len(parts) > most:
                self._problem(path, f"{self.name} takes one model, got {len(parts)}")
        elif not others:
            self._problem(path, "expected one besides the base")
        elif len(others) < least or (most is not None and len(others) > most):
            wanted = f"{'at least ' if most is None else ''}{_COUNTS[least]}"
            base_too = "" if self.method.base == "optional" else "the base and "
            self._problem(path, f"{self.name} takes {base_too}{wanted}, got {len(others)}")

    def _slices(
        self,
        runs: Sequence[Run],
        chosen: Sequence[Sequence[Part]],
        sources: Sequence[Source],
        base: Model,
    ) -> list[dict[str, list[int]]]:
        models = {BASE: base} | {name: model for name, model, _ in sources}
        layers = {name: layers_of_model(model, self.layers_of) for name, model in models.items()}
        for number, run in enumerate(runs):
            for part in run.parts:
                count = layers_of_model(part.model, self.layers_of)
                end = (part.start or 0) + (run.length or 0)
                if end > count:
                    self._problem(
                        f"slices.{number}",
                        f"{shown(part.model)} has {count} blocks, the range ends at {end}",
                    )
        self._stop()
        found = slices_of(runs, chosen, sources, base)
        return [] if are_whole(found, list(layers.values())) else found

    def _tokenizer(self, base: Model, sources: Sequence[Source]) -> Any:
        def name_of(model: Model) -> str | None:
            if model == base:
                return BASE
            return next((name for name, other, _ in sources if other == model), None)

        return read_tokenizer(self.content, self.entries, name_of)

    def _places(self, model: Model) -> Places:
        if self.places_of is None:
            raise RecipeError(
                f"{self.where}: the tensor names of {shown(model)} are needed to read this. "
                "Build the recipe from its file."
            )
        return places_of_model(model, self.places_of)
