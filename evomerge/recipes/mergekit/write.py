"""A recipe as mergekit YAML that merges to the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from evomerge.errors import ExportError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.recipes._stack import BASE, slice_lengths
from evomerge.recipes.mergekit import write_refusals as refuse
from evomerge.recipes.mergekit.methods import METHOD_OF, METHODS, Method
from evomerge.recipes.mergekit.modules import named
from evomerge.recipes.mergekit.tokens import write_tokenizer
from evomerge.recipes.mergekit.write_layout import Layout
from evomerge.recipes.mergekit.write_remarks import remarks
from evomerge.recipes.mergekit.write_scales import Folds, by_factor
from evomerge.recipes.mergekit.write_segments import by_tensor
from evomerge.recipes.mergekit.write_values import Values, has_rows, with_rescale
from evomerge.recipes.places import Placed

PAIRS = ("slerp", "nearswap", "arcee_fusion")  # of two sources the first is the base
_WHOLE_NUMBERS = ("max_iter",)


def to_mergekit(
    recipe: Recipe,
    places: Mapping[str, Placed],
    shapes: Mapping[str, tuple[int, ...]],
    folds: Folds | None = None,
) -> str:
    """YAML text with which mergekit 0.1.5 merges to the same weights.

    Args:
        recipe: one that ``make_plan`` accepts.
        places: tensor name to block and role, for every tensor of the merged model.
        shapes: tensor name to shape.
        folds: tensor name to what the recipe's scales do to it; needed where it has some.

    Raises:
        ExportError: everything in the recipe that mergekit lacks or would get wrong, at once.
    """
    digest = recipe.digest
    if recipe.operator == "segments":
        recipe = by_tensor(recipe, places, shapes)
    recipe = by_factor(recipe, places, folds or {})
    name = METHOD_OF.get(recipe.operator)
    if name is None:
        known = did_you_mean(recipe.operator, METHOD_OF)
        raise ExportError(f"operator: mergekit export knows no {recipe.operator!r}.{known}")
    written, method = with_rescale(recipe, METHODS[name])
    writer = _Writer(written, name, method, places)
    content = writer.content()
    if writer.problems:
        raise ExportError(dict.fromkeys(writer.problems))
    about = remarks(recipe, method, writer.values.at, writer.layout, shapes)
    lines = [f"evomerge recipe {digest}", *about]
    return "".join(f"# {line}\n" for line in lines) + _dump(content)


class _Writer:
    """One export: values are looked up tensor group by tensor group, problems gathered."""

    def __init__(
        self, recipe: Recipe, name: str, method: Method, places: Mapping[str, Placed]
    ) -> None:
        self.recipe, self.name, self.method, self.places = recipe, name, method, places
        # where mergekit would add the base to the models
        self.alone = method.base == "ignored" and name != "linear" and not self._has_base
        self.slices = recipe.slices
        self.layout = Layout(places, slice_lengths(recipe.slices))
        if self.alone and not recipe.slices:
            self.slices = (dict.fromkeys(recipe.sources, (0, self.layout.layers)),)
            self.layout = Layout(places, [self.layout.layers])
        self.values = Values(recipe, name, method, self.layout)
        self.problems = [
            f"parameters.{path}: {count} values, but the model has {self.layout.layers} blocks"
            for path, count in recipe.lists()
            if count != self.layout.layers
        ]

    def content(self) -> dict[str, Any]:
        """The YAML; meaningless when there are problems."""
        unreadable = bool(self.problems)
        self.problems += refuse.whole(self.recipe)
        models = [self.recipe.base, *self.recipe.sources.values()]
        if unreadable or any(isinstance(model, Recipe) for model in models):
            return {}
        self.problems += refuse.repeated(self.recipe)
        base_model = self._base_model()
        self.problems += refuse.parameters(self.recipe, self.method, self.layout, self.values.at)
        self.problems += refuse.weights(self.recipe, self.method, self.layout, self.values.at)
        self.problems += self.values.rescale_problems()
        content: dict[str, Any] = {"merge_method": self.name}
        if base_model is not None:
            content["base_model"] = base_model
        shared = self._shared()
        content |= self._in_modules(self._merged(base_model), base_model)
        if shared:
            content["parameters"] = shared
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

    @property
    def _has_base(self) -> bool:
        return self.recipe.base in self.recipe.sources.values()

    @property
    def _space(self) -> str:
        return str(self.recipe.parameters.get("space", "task_vector"))

    def _base_model(self) -> str | None:
        base, first = str(self.recipe.base), str(next(iter(self.recipe.sources.values())))
        if self.name in PAIRS and len(self.recipe.sources) == 2:
            if self.recipe.tokenizer is not None and first != base:
                self.problems.append(
                    f"tokenizer: mergekit's {self.name} fills rows of unknown tokens from {first}, "
                    f"not from the base {base}. Make the base the first source."
                )
            return first
        if self.name in PAIRS and first == base:
            self.problems.append(
                f"sources: {self.name} of the base with itself, which mergekit lacks"
            )
        if self.method.base == "optional" and self._space == "weights":
            if first != base:
                self.problems.append(
                    "parameters.space: without base_model mergekit has no other model to take the "
                    "config from. Make the base the first source."
                )
            return None
        return base

    def _merged(self, base_model: str | None) -> dict[str, Any]:
        """The key ``models`` or ``slices``."""
        models = [(str(model), name) for name, model in self.recipe.sources.items()]
        relative = base_model is not None and self.method.base != "ignored"
        if relative and not (self.name in PAIRS and len(models) == 2):
            models = self._without_base(models)
        if self.slices:
            slices = [
                self._slice(number, models, base_model if relative else None)
                for number in range(len(self.slices))
            ]
            return {"slices": slices}
        entries = [self._entry(model, source, None) for model, source in models]
        if self.name == "linear" and not self._has_base:
            # with weight 0, so that config and tokenizer are its: mergekit would take those of
            # any one of the models
            entries.append({"model": str(self.recipe.base), "parameters": {"weight": 0.0}})
        return {"models": entries}

    def _slice(
        self, number: int, models: list[tuple[str, str]], base_model: str | None
    ) -> dict[str, Any]:
        slice_ = self.slices[number]
        sources = []
        for model, source in models:
            if source in slice_:
                entry = self._entry(model, source, number)
                written = {"model": model, "layer_range": list(slice_[source])}
                sources.append(written | {k: v for k, v in entry.items() if k != "model"})
        if base_model is not None and all(item["model"] != base_model for item in sources):
            first = next(iter(slice_.values()))
            same = [s for s, m in self.recipe.sources.items() if m == base_model and s in slice_]
            range_ = slice_[same[0]] if same else slice_.get(BASE, first)
            sources.append({"model": base_model, "layer_range": list(range_)})
        parameters = {
            self.method.theirs(name): self.values.cut(name, None, number)
            for name in self._varying_shared()
        }
        return {"sources": sources} | ({"parameters": parameters} if parameters else {})

    def _in_modules(self, merged: dict[str, Any], base_model: str | None) -> dict[str, Any]:
        """The same for some modules, all others left as the base has them."""
        if not self.recipe.modules:
            return merged
        chosen = named(self.recipe.modules, self.places)
        every = named([name.partition(".")[0] for name in self.places], self.places) or []
        if not chosen:
            self.problems.append(
                f"modules: {', '.join(self.recipe.modules)} are no modules to mergekit."
            )
            return {}
        alone = self.method.base == "ignored" or (self.method.least == 1 and self.name not in PAIRS)
        if base_model is None or not alone:
            self.problems.append(
                f"modules: mergekit's {self.name} cannot leave the other modules as they are."
            )
            return {}
        copy = {"models": [{"model": str(self.recipe.base), "parameters": {"weight": 1.0}}]}
        return {"modules": {name: merged if name in chosen else copy for name in every}}

    def _without_base(self, models: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The base as a source has no task vector: in mergekit it cannot be one."""
        others = [(model, source) for model, source in models if model != self.recipe.base]
        if not others:
            self.problems.append("sources: the base alone. Add a source that differs from it.")
        if "normalize" not in self.method.shared:
            return others
        divides = any(self.values.at("normalize", None)(*spot) for spot in self.layout.spots)
        if len(others) < len(models) and divides and not self.method.elects:
            self.problems.append(
                "sources: the base is one of them, and mergekit does not divide by its weight. "
                "Drop it, or set normalize: false."
            )
        return others

    # Parameters

    def _entry(self, model: str, source: str, number: int | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name in self.method.per_source:
            if self.values.is_given(name, source):
                theirs = self.method.theirs(name)
                parameters[theirs] = (
                    self.values.write(name, source)
                    if number is None
                    else self.values.cut(name, source, number)
                )
        return {"model": model} | ({"parameters": parameters} if parameters else {})

    def _shared(self) -> dict[str, Any]:
        """What is said once for all slices."""
        varying = self._varying_shared()
        written: dict[str, Any] = {}
        for name in self._given_shared():
            if name not in varying:
                value = self.values.write(name, None)
                whole = name in _WHOLE_NUMBERS and isinstance(value, float)
                written[self.method.theirs(name)] = int(value) if whole else value
        axis = self.recipe.parameters.get("axis")
        if self.name == "nuslerp" and axis is not None:
            # mergekit's flag does the reverse of what its documentation says
            written |= {"nuslerp_flatten": False, "nuslerp_row_wise": axis == "col"}
        return written

    def _given_shared(self) -> list[str]:
        always = (*self.method.needed, "rescale")
        return [n for n in self.method.shared if n in self.recipe.parameters or n in always]

    def _varying_shared(self) -> list[str]:
        """Those with gradients, which in mergekit are of one slice."""
        if not self.slices:
            return []
        return [name for name in self._given_shared() if has_rows(self.values.write(name, None))]


class _Dumper(yaml.SafeDumper):
    """Gradients on one line, everything else in blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_row(self, data: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _Dumper.represent_row)


def _dump(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
