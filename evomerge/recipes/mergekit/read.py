"""A recipe from mergekit YAML that merges to the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from evomerge.errors import RecipeError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import BASE, Recipe
from evomerge.recipes.mergekit.methods import METHODS, MergeMethod
from evomerge.recipes.mergekit.modules import merges
from evomerge.recipes.mergekit.read_models import (
    Model,
    ModelReader,
    OutputSlice,
    SliceModel,
    Source,
    adapter_on,
    are_whole,
    named_sources,
    slices_of,
    sources_of,
    title_of,
)
from evomerge.recipes.mergekit.read_parameters import ParameterReader
from evomerge.recipes.mergekit.read_settings import Parameters, Problems
from evomerge.recipes.mergekit.tokens import read_tokenizer
from evomerge.recipes.places import Places, PlacesOf
from evomerge.recipes.yaml import FORMAT, validated

DIALECT = "dialect"

Note = Callable[[str], None]

_TOP = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name", DIALECT, "allow_missing",
)  # fmt: skip
_DEFAULT_DTYPE = "bfloat16"
_DTYPES = ("float32", "bfloat16", "float16")  # of what is written; arithmetic is float32
_COUNTS = {1: "one more", 2: "two more"}


def ignore(note: str) -> None:
    """Tell nobody."""


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


def _method(content: dict[str, Any], where: str) -> MergeMethod:
    name = str(content.get("merge_method"))
    if name not in METHODS:
        known = did_you_mean(name, METHODS)
        raise RecipeError(f"{where}: merge_method: {shown(name)} cannot be read.{known}")
    return METHODS[name]


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
    facts = _Facts(cache(layers_of), None if places_of is None else cache(places_of), note)
    if len(documents) == 1:
        return _Reader(documents[0], where, facts, {}).recipe()
    names = [content.get("name") for content in documents]
    if odd := [name for name in names if name is not None and not isinstance(name, str)]:
        raise RecipeError(f"{where}: name: expected a text, got {shown(odd[0])}")
    problems = [
        f"{where}: name: expected a text, got {shown(name)}. Put a name there."
        for name in names
        if isinstance(name, (dict, list))
    ]
    if problems:
        raise RecipeError(problems)
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
            done[name] = _Reader(content, label, facts, named).recipe()
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


class _Facts(NamedTuple):
    """What is asked about models, and who is told of what has no effect."""

    layers_of: Callable[[str], int]
    places_of: PlacesOf | None
    note: Note


class _Reader:
    """Reads one document, gathering problems."""

    def __init__(
        self, content: dict[str, Any], where: str, facts: _Facts, named: Mapping[str, Recipe]
    ) -> None:
        self.content, self.where, self.named = content, where, named
        self.method = _method(content, where)
        self.dialect = content.get(DIALECT) == "mergekit"
        self.facts = facts
        self.problems = Problems(where)
        self.models = ModelReader(named, self.problems)

    def recipe(self) -> Recipe:
        self.problems.check_keys(self.content, "", _TOP)
        if self.content.get(DIALECT, "mergekit") != "mergekit":
            self.problems.add(DIALECT, f"expected mergekit, got {shown(self.content[DIALECT])}")
        base_model = self.content.get("base_model")
        base = None if base_model is None else self.models.model(base_model, "base_model")
        every = list(merges(self.content, base, self.models, self._places))
        inner: Recipe | None = None
        for number, (modules, keys, path) in enumerate(every):
            merge = self._merge(keys, path, base)
            last = number == len(every) - 1
            merge |= {"modules": modules, "dtype": self._dtype() if last else "float32"}
            self.problems.stop()
            merge["allow_missing"] = self.content.get("allow_missing") or ()
            if inner is not None:
                merge["base"] = inner  # outside its own modules it is the base, exactly
            if last and self.content.get("chat_template"):
                merge["chat_template"] = str(self.content["chat_template"])
            inner = validated(merge, self.where)
        assert inner is not None
        for sentence in self.problems.notes:
            self.facts.note(sentence)
        return inner

    def _dtype(self) -> str:
        key = next((key for key in ("out_dtype", "dtype") if self.content.get(key)), "")
        dtype = str(self.content.get(key, _DEFAULT_DTYPE)).removeprefix("torch.")
        if dtype not in _DTYPES:
            text = (
                f"expected {', '.join(_DTYPES)}, got {shown(dtype)}. Set out_dtype to one of them"
            )
            self.problems.add(key, text)
        return dtype

    # One merge

    def _merge(self, keys: dict[str, Any], path: str, base: Model | None) -> dict[str, Any]:
        """The fields of a recipe, but for modules, dtype and chat template."""
        slices = self.models.slices(keys, path)
        for number, slice_ in enumerate(slices):
            if slice_.base is not None and slice_.base != (base or slice_.base):
                self.problems.add(
                    f"{path}slices.{number}.base_model",
                    "evomerge has one base for all slices. Merge the slices with another base "
                    "first, and give the result as a model",
                )
            base = base or slice_.base
        if not slices or not all(s.models and all(one.model for one in s.models) for s in slices):
            self.problems.stop()
        if self.method.base == "required" and base is None:
            self.problems.add("base_model", f"{self.method.name} needs one")
        first = base or slices[0].models[0].model
        slices = [self._with_sources(slice_, base) for slice_ in slices]
        for number, slice_ in enumerate(slices):
            at = f"slices.{number}.sources" if keys.get("slices") else "models"
            self._check_count(slice_.sources, base, f"{path}{at}")
        if not all(slice_.sources for slice_ in slices):
            self.problems.stop()
        sources = named_sources(slices, self.named)
        fields: dict[str, Any] = {
            "base": first,
            "sources": {source.name: adapter_on(source.model, first) for source in sources},
            "operator": self.method.operator,
        }
        if keys.get("slices"):
            fields["slices"] = self._slices(slices, sources, first)
        shared: list[Parameters] = [("parameters", self.content.get("parameters"))]
        if path:
            shared.insert(0, (f"{path}parameters", keys.get("parameters")))
        fields["parameters"] = ParameterReader(
            method=self.method,
            slices=slices,
            sources=sources,
            shared=shared,
            layers=lambda: self._layers(first),
            places=lambda: self._places(first),
            dialect=self.dialect,
            problems=self.problems,
        ).read(relative=base is not None)
        names = [(first, BASE), *((source.model, source.name) for source in sources)]
        fields["tokenizer"] = read_tokenizer(self.content, self.models, names)
        return fields

    def _with_sources(self, slice_: OutputSlice, base: Model | None) -> OutputSlice:
        """The slice with its sources, and with the base where mergekit adds it to the models."""
        is_listed = any(one.model == base for one in slice_.models)
        if slice_.length is None and base is not None and not is_listed:
            added = SliceModel(base, ("base_model", None), listed=False)
            slice_ = slice_._replace(models=(*slice_.models, added))
        return slice_._replace(sources=sources_of(slice_, self.method, base))

    def _check_count(self, models: Sequence[SliceModel], base: Model | None, path: str) -> None:
        """Report too few or too many models, as mergekit's input contracts do."""
        least, most = self.method.least, self.method.most
        others = [one for one in models if one.model != base or one.copy]
        if self.method.base == "ignored":
            if most is not None and len(models) > most:
                self.problems.add(path, f"{self.method.name} takes one model, got {len(models)}")
        elif not others:
            self.problems.add(path, "expected one besides the base")
        elif len(others) < least or (most is not None and len(others) > most):
            wanted = f"{'at least ' if most is None else ''}{_COUNTS[least]}"
            base_too = "" if self.method.base == "optional" else "the base and "
            self.problems.add(
                path, f"{self.method.name} takes {base_too}{wanted}, got {len(others)}"
            )

    def _slices(
        self, slices: Sequence[OutputSlice], sources: Sequence[Source], base: Model
    ) -> list[dict[str, list[int]]]:
        """The recipe's slices, none where they are the whole models."""
        models = {BASE: base} | {source.name: source.model for source in sources}
        layers = [self._layers(model) for model in models.values()]
        for number, slice_ in enumerate(slices):
            for one in slice_.models:
                count = self._layers(one.model)
                end = (one.start or 0) + (slice_.length or 0)
                if end > count:
                    self.problems.add(
                        f"slices.{number}",
                        f"{title_of(one.model)} has {count} blocks, the range ends at {end}",
                    )
        self.problems.stop()
        ranges = slices_of(slices, sources, base)
        return [] if are_whole(ranges, layers) else ranges

    def _layers(self, model: Model) -> int:
        if isinstance(model, Recipe):
            return model.depth or self._layers(model.base)
        return self.facts.layers_of(model)

    def _places(self, model: Model) -> Places:
        """The places of a model; a recipe's are its base's, whose blocks are of one kind."""
        if isinstance(model, Recipe):
            return self._places(model.base)
        if self.facts.places_of is None:
            raise RecipeError(
                f"{self.where}: the tensor names of {model} are needed to read this. "
                "Build the recipe from its file."
            )
        return self.facts.places_of(model)
