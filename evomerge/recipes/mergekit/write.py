"""A recipe as mergekit YAML that merges to the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from evomerge.errors import ExportError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import BASE, Recipe
from evomerge.recipes._stack import slice_lengths
from evomerge.recipes.mergekit import write_refusals as refuse
from evomerge.recipes.mergekit.methods import METHOD_OF, NEEDED, MergeMethod
from evomerge.recipes.mergekit.modules import named
from evomerge.recipes.mergekit.tokens import write_tokenizer
from evomerge.recipes.mergekit.write_equivalents import (
    Folds,
    with_rescale,
    without_scales,
    without_segments,
)
from evomerge.recipes.mergekit.write_settings import SettingWriter, Values, has_gradients
from evomerge.recipes.places import Place

_WHOLE_NUMBERS = ("max_iter",)


def to_mergekit(
    recipe: Recipe,
    places: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    folds: Folds | None = None,
) -> str:
    """YAML text with which mergekit 0.1.5 merges to the same weights.

    Args:
        recipe: one that ``make_plan`` accepts.
        places: tensor name to block and role, for every tensor of the merged model.
        shapes: tensor name to shape.
        folds: tensor name to what the recipe's scales do to the tensor; needed if it has scales.

    Raises:
        ExportError: everything in the recipe that mergekit lacks or would get wrong, at once.
    """
    digest = recipe.digest
    recipe = without_segments(recipe, places, shapes)
    recipe = without_scales(recipe, places, folds or {})
    method = METHOD_OF.get(recipe.operator)
    if method is None:
        known = did_you_mean(recipe.operator, METHOD_OF)
        raise ExportError(f"operator: mergekit export knows no {shown(recipe.operator)}.{known}")
    writer = _Writer(*with_rescale(recipe, method), places)
    content = writer.content()
    if writer.problems:
        raise ExportError(dict.fromkeys(writer.problems))
    lines = [f"evomerge recipe {digest}", *refuse.remarks(writer.values, shapes)]
    text = yaml.dump(
        content, Dumper=_GradientDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return "".join(f"# {line}\n" for line in lines) + text


class _Writer:
    """Writes one recipe, gathering problems."""

    def __init__(self, recipe: Recipe, method: MergeMethod, places: Mapping[str, Place]) -> None:
        self.recipe, self.method, self.name, self.places = recipe, method, method.name, places
        self.slices, lengths = recipe.slices, slice_lengths(recipe.slices)
        settings = SettingWriter(places, lengths)
        self.has_base = recipe.base in recipe.sources.values()
        adds_base = method.base == "ignored" and method.name != "linear" and not self.has_base
        if adds_base and not lengths:
            # one slice of all blocks, as mergekit would add the base to a list of models
            self.slices = (dict.fromkeys(recipe.sources, (0, settings.layers)),)
            settings = SettingWriter(places, [settings.layers])
        self.values = Values(recipe, method, settings)
        self.problems = [
            f"parameters.{path}: {count} values, but the model has {settings.layers} blocks"
            for path, count in recipe.lists()
            if count != settings.layers
        ]

    def content(self) -> dict[str, Any]:
        """Keys and values of the YAML; meaningless when there are problems."""
        unreadable = bool(self.problems)
        self.problems += refuse.whole(self.recipe)
        models = [self.recipe.base, *self.recipe.sources.values()]
        if unreadable or any(isinstance(model, Recipe) for model in models):
            return {}
        self.problems += refuse.repeated(self.recipe)
        base_model = self._base_model()
        for refusals in (refuse.parameters, refuse.weights, refuse.rescale):
            self.problems += refusals(self.values)
        written = (*self.recipe.parameters, *NEEDED, "rescale")
        shared = [name for name in self.method.shared if name in written]
        # gradients are of one slice in mergekit
        varying = [n for n in shared if self.slices and has_gradients(self.values.write(n, None))]
        content: dict[str, Any] = {"merge_method": self.name}
        if base_model is not None:
            content["base_model"] = base_model
        content |= self._in_modules(self._merged(base_model, varying), base_model)
        if parameters := self._shared([name for name in shared if name not in varying]):
            content["parameters"] = parameters
        content |= {"dtype": "float32", "out_dtype": self.recipe.dtype}
        folders = {name: str(model) for name, model in self.recipe.sources.items()}
        folders[BASE] = str(self.recipe.base)
        content |= write_tokenizer(self.recipe.tokenizer, folders, base_model is not None)
        if self.recipe.chat_template:
            content["chat_template"] = self.recipe.chat_template
        if self.values.needs_dialect():
            content["dialect"] = "mergekit"
        self.problems += self.values.problems
        return content

    # Models

    def _base_model(self) -> str | None:
        base, first = str(self.recipe.base), str(next(iter(self.recipe.sources.values())))
        if self.method.of_pairs and len(self.recipe.sources) == 2:
            if self.recipe.tokenizer is not None and first != base:
                self.problems.append(
                    f"tokenizer: mergekit's {self.name} fills rows of unknown tokens from {first}, "
                    f"not from the base {base}. Make the base the first source."
                )
            return first
        if self.method.of_pairs and first == base:
            self.problems.append(
                f"sources: {self.name} of the base with itself, which mergekit lacks"
            )
        if self.method.base == "optional" and self.recipe.parameters.get("space") == "weights":
            if first != base:
                self.problems.append(
                    "parameters.space: without base_model mergekit has no other model to take the "
                    "config from. Make the base the first source."
                )
            return None
        return base

    def _merged(self, base_model: str | None, varying: list[str]) -> dict[str, Any]:
        models = [(str(model), name) for name, model in self.recipe.sources.items()]
        relative = base_model is not None and self.method.base != "ignored"
        if relative and not (self.method.of_pairs and len(models) == 2):
            models = self._without_base(models)
        if self.slices:
            base = base_model if relative else None
            slices = [self._slice(n, models, base, varying) for n in range(len(self.slices))]
            return {"slices": slices}
        entries = [{"model": model} | self._own(source) for model, source in models]
        if self.name == "linear" and not self.has_base:
            # with weight 0, so that config and tokenizer are its: mergekit would take those of
            # any one of the models
            entries.append({"model": str(self.recipe.base), "parameters": {"weight": 0.0}})
        return {"models": entries}

    def _slice(
        self, number: int, models: list[tuple[str, str]], base_model: str | None, varying: list[str]
    ) -> dict[str, Any]:
        slice_ = self.slices[number]
        sources = [
            {"model": model, "layer_range": list(slice_[source])} | self._own(source, number)
            for model, source in models
            if source in slice_
        ]
        if base_model is not None and all(item["model"] != base_model for item in sources):
            first = next(iter(slice_.values()))
            same = [s for s, m in self.recipe.sources.items() if m == base_model and s in slice_]
            range_ = slice_[same[0]] if same else slice_.get(BASE, first)
            sources.append({"model": base_model, "layer_range": list(range_)})
        parameters = {self.method.theirs(n): self.values.write(n, None, number) for n in varying}
        return {"sources": sources} | ({"parameters": parameters} if parameters else {})

    def _in_modules(self, merged: dict[str, Any], base_model: str | None) -> dict[str, Any]:
        """``merged`` for the recipe's modules, and a copy of the base for all others."""
        if not self.recipe.modules:
            return merged
        chosen = named(self.recipe.modules, self.places)
        every = named([name.partition(".")[0] for name in self.places], self.places) or []
        if not chosen:
            self.problems.append(
                f"modules: {', '.join(self.recipe.modules)} are no modules to mergekit."
            )
            return {}
        alone = self.method.base == "ignored" or (
            self.method.least == 1 and not self.method.of_pairs
        )
        if base_model is None or not alone:
            self.problems.append(
                f"modules: mergekit's {self.name} cannot leave the other modules as they are."
            )
            return {}
        copy = {"models": [{"model": str(self.recipe.base), "parameters": {"weight": 1.0}}]}
        return {"modules": {name: merged if name in chosen else copy for name in every}}

    def _without_base(self, models: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The sources without the base, which has no task vector and is no source to mergekit."""
        others = [(model, source) for model, source in models if model != self.recipe.base]
        if not others:
            self.problems.append("sources: the base alone. Add a source that differs from it.")
        divides = "normalize" in self.method.shared and any(self.values.every("normalize"))
        if len(others) < len(models) and divides and not self.method.elects:
            self.problems.append(
                "sources: the base is one of them, and mergekit does not divide by its weight. "
                "Drop it, or set normalize: false."
            )
        return others

    # Parameters

    def _own(self, source: str, number: int | None = None) -> dict[str, Any]:
        """The key ``parameters`` of one model, in one slice or in all, if it needs any."""
        own = {
            self.method.theirs(name): self.values.write(name, source, number)
            for name in self.method.per_source
            if self.values.is_given(name, source)
        }
        return {"parameters": own} if own else {}

    def _shared(self, names: list[str]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        for name in names:
            value = self.values.write(name, None)
            whole = name in _WHOLE_NUMBERS and isinstance(value, float)
            written[self.method.theirs(name)] = int(value) if whole else value
        axis = self.recipe.parameters.get("axis")
        if self.name == "nuslerp" and axis is not None:
            # mergekit's flag does the reverse of what its documentation says
            written |= {"nuslerp_flatten": False, "nuslerp_row_wise": axis == "col"}
        return written


class _GradientDumper(yaml.SafeDumper):
    """Gradients on one line, everything else in blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_row(self, data: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_GradientDumper.add_representer(list, _GradientDumper.represent_row)
