"""A recipe from mergekit YAML that merges to the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from evomerge.recipes.yaml import validated

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


def _method(content: dict[str, Any], where: str) -> MergeMethod:
    name = str(content.get("merge_method"))
    if name not in METHODS:
        known = did_you_mean(name, METHODS)
        raise RecipeError(f"{where}: merge_method: {shown(name)} cannot be read.{known}")
    return METHODS[name]


class Facts(NamedTuple):
    """What is asked about models, and who is told of what has no effect."""

    layers_of: Callable[[str], int]
    places_of: PlacesOf | None
    note: Note


class Reader:
    """Reads one document, gathering problems.

    Args:
        content: the parsed YAML.
        where: the file's name, for messages.
        named: name to a recipe that stands in place of a model of that name.

    Raises:
        RecipeError: no method of mergekit's.
    """

    def __init__(
        self, content: dict[str, Any], where: str, facts: Facts, named: Mapping[str, Recipe]
    ) -> None:
        self.content, self.where, self.named = content, where, named
        self.method = _method(content, where)
        self.dialect = content.get(DIALECT) == "mergekit"
        self.facts = facts
        self.problems = Problems(where)
        self.models = ModelReader(named, self.problems)

    def recipe(self) -> Recipe:
        """What the document merges.

        Raises:
            RecipeError: wrong values, and everything that a recipe cannot say, at once.
        """
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
