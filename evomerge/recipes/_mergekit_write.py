"""A recipe as mergekit YAML that merges to the same weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from evomerge.errors import ExportError
from evomerge.recipes._mergekit_layout import Layout, Placed, Value
from evomerge.recipes._mergekit_methods import FIXED, METHODS, Method, their_name
from evomerge.recipes.recipe import Recipe, Scalar
from evomerge.registry import did_you_mean


def to_mergekit(
    recipe: Recipe, places: Mapping[str, Placed], shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """YAML text with which mergekit 0.1.5 merges to the same weights.

    Args:
        recipe: one that ``make_plan`` accepts.
        places: tensor name to block and role, for every tensor of the merged model.
        shapes: tensor name to shape.

    Raises:
        ExportError: everything in the recipe that mergekit lacks or would get wrong, at once.
    """
    method = METHODS.get(recipe.operator)
    if method is None:
        known = did_you_mean(recipe.operator, METHODS)
        raise ExportError(f"operator: mergekit export knows no {recipe.operator!r}.{known}")
    writer = _Writer(recipe, method, places)
    content = writer.content()
    if writer.problems:
        raise ExportError(dict.fromkeys(writer.problems))
    comments = "".join(f"# {line}\n" for line in writer.comments(shapes))
    return comments + _dump(content)


class _Writer:
    """One export: values are looked up tensor group by tensor group, problems gathered."""

    def __init__(self, recipe: Recipe, method: Method, places: Mapping[str, Placed]) -> None:
        self.recipe, self.method = recipe, method
        self.layout = Layout(places)
        self.problems = [
            f"parameters.{path}: {count} values, but the model has {self.layout.layers} blocks"
            for path, count in recipe.lists()
            if count != self.layout.layers
        ]

    def content(self) -> dict[str, Any]:
        """The YAML; meaningless when there are problems."""
        if self.problems:
            return {}
        models, base_model = self._models()
        self._check_parameters()
        self._check_weights()
        content: dict[str, Any] = {
            "merge_method": self.recipe.operator,
            "base_model": base_model,
            "models": [self._entry(reference, source) for reference, source in models],
        }
        if shared := self._shared():
            content["parameters"] = shared
        content |= {"dtype": "float32", "out_dtype": self.recipe.dtype}
        if self.recipe.tokenizer == "base":
            content["tokenizer_source"] = "base"
        return content

    def comments(self, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
        """What a reader of the YAML should know."""
        yield f"evomerge recipe {self.recipe.digest}"
        yield "For mergekit 0.1.5 or newer. As in evomerge, arithmetic is float32 (dtype)"
        yield "and the result is rounded once, to out_dtype."
        if self.recipe.tokenizer == "base":
            yield "mergekit cuts rows of embedding and head that belong to no token; evomerge keeps"
            yield "the base's shape."
        first = next(iter(self.recipe.sources.values()))
        if self.recipe.operator == "slerp" and self._of_two and first != self.recipe.base:
            yield "mergekit takes config and tokenizer from base_model, evomerge from"
            yield f"{self.recipe.base}: copy them from there."
        if self.recipe.operator.startswith("dare"):
            yield "mergekit draws its own random masks, others on every run: the merge has the same"
            yield "distribution as evomerge's, not the same weights."
            if self._inverse:
                yield "Each weight has been divided by its density: evomerge's rescale: inverse."
        elif "density" in self.recipe.parameters:
            yield "Of elements equal in magnitude at the edge of a density, mergekit keeps any,"
            yield "evomerge the first: a few elements per tensor can differ."
        if not self.recipe.operator.startswith("dare") and (small := self._emptied(shapes)):
            yield f"mergekit before 0.1.5 stops at {small}: the density leaves no element."

    def _at(self, name: str, source: str | None) -> Value:
        default = self.method.defaults[name]

        def value(role: str, layer: int) -> Scalar:
            found = self.recipe.setting(name, source, role, layer)
            return default if found is None else found

        return value

    @property
    def _of_two(self) -> bool:
        return len(self.recipe.sources) == 2

    @property
    def _inverse(self) -> bool:
        """Whether kept elements are divided by the density somewhere."""
        if "rescale" not in self.method.shared:
            return False
        return any(self._at("rescale", None)(*spot) == "inverse" for spot in self.layout.spots)

    def _models(self) -> tuple[list[tuple[str, str | None]], str]:
        """Each model with the source that it is, in mergekit's order; and the base model."""
        base, sources = self.recipe.base, self.recipe.sources
        for reference in dict.fromkeys([base, *sources.values()]):
            if "+" in reference or ("@" in reference and reference.startswith(("/", ".", "~"))):
                self.problems.append(
                    f"{reference}: mergekit reads + and @ in a model's path as adapter and "
                    "revision. Rename the folder."
                )
        for reference, count in Counter(sources.values()).items():
            if count > 1:
                self.problems.append(
                    f"sources: {reference} is given {count} times, mergekit takes a model once. "
                    "Drop one and add its weight to the other."
                )
        models: list[tuple[str, str | None]] = [(ref, name) for name, ref in sources.items()]
        if self.recipe.operator == "slerp":
            return models, self._slerp_base()
        if self.recipe.operator == "linear":
            # with weight 0, so that config and tokenizer are its: mergekit would take those of
            # any one of the models
            return models if base in sources.values() else [*models, (base, None)], base
        return self._without_base(models), base

    def _slerp_base(self) -> str:
        base, first = self.recipe.base, next(iter(self.recipe.sources.values()))
        if not self._of_two:
            if first == base:
                self.problems.append("sources: slerp of the base with itself, which mergekit lacks")
            return base
        if self.recipe.tokenizer == "base" and first != base:
            self.problems.append(
                f"tokenizer: mergekit's slerp fills rows of unknown tokens from {first}, not from "
                f"the base {base}. Make the base the first source."
            )
        return first

    def _without_base(self, models: list[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
        """The base as a source has no task vector: in mergekit it cannot be one."""
        others = [(ref, source) for ref, source in models if ref != self.recipe.base]
        if not others:
            self.problems.append("sources: the base alone. Add a source that differs from it.")
        divides = any(self._at("normalize", None)(*spot) for spot in self.layout.spots)
        if len(others) < len(models) and divides and not self.method.elects:
            self.problems.append(
                "sources: the base is one of them, and mergekit does not divide by its weight. "
                "Drop it, or set normalize: false."
            )
        return others

    def _entry(self, reference: str, source: str | None) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name in self.method.per_source:
            if source is None:
                parameters[name] = 0.0
            elif name == "weight":
                parameters[name] = self._write(name, self._weight(source))
            elif name in self.recipe.parameters:
                parameters[name] = self._write(name, self._at(name, source))
        return {"model": reference} | ({"parameters": parameters} if parameters else {})

    def _weight(self, source: str) -> Value:
        weight = self._at("weight", source)
        if not self._inverse:
            return weight
        density, rescale = self._at("density", source), self._at("rescale", None)

        def divided(role: str, layer: int) -> Scalar:
            w, d = weight(role, layer), density(role, layer)
            assert isinstance(w, float) and isinstance(d, float)
            return w / d if rescale(role, layer) == "inverse" else w

        return divided

    def _restores(self, role: str, layer: int) -> Scalar:
        """The flag that ``rescale`` is to mergekit: whether the sum of magnitudes is restored."""
        return self._at("rescale", None)(role, layer) == "l1"

    def _shared(self) -> dict[str, Any]:
        written = {}
        for name in self.method.shared:
            if name in FIXED or not (name in self.recipe.parameters or name in ("t", "rescale")):
                continue
            value = self._restores if name == "rescale" else self._at(name, None)
            written[their_name(name)] = self._write(name, value)
        return written

    def _check_parameters(self) -> None:
        known = self.method.defaults
        for name in self.recipe.parameters:
            if name not in known:
                self.problems.append(
                    f"parameters.{name}: unknown to mergekit's {self.recipe.operator}."
                    f"{did_you_mean(name, known)}"
                )
        for name in FIXED:
            if name not in known:
                continue
            found = dict.fromkeys(self._at(name, None)(*spot) for spot in self.layout.spots)
            if wrong := [value for value in found if value != known[name]]:
                self.problems.append(
                    f"parameters.{name}: mergekit's {self.recipe.operator} has no {wrong[0]!r}. "
                    f"Set it to {known[name]}."
                )

    def _check_weights(self) -> None:
        """Where mergekit divides by another sum of weights than we do."""
        if "weight" not in self.method.per_source:
            return
        normalize = self._at("normalize", None)
        of = {source: self._at("weight", source) for source in self.recipe.sources}
        negative: set[str] = set()
        for spot in self.layout.spots:
            if not normalize(*spot):
                continue
            weights = {source: value(*spot) for source, value in of.items()}
            numbers = [w for w in weights.values() if isinstance(w, float)]
            negative |= {s for s, w in weights.items() if isinstance(w, float) and w < 0}
            if self.recipe.operator == "linear" and abs(math.fsum(numbers)) < 1e-8:
                self.problems.append(
                    "parameters.weight: the weights add up to 0, by which mergekit divides. "
                    "Set normalize: false, or change one."
                )
            if self._inverse and self._at("rescale", None)(*spot) == "inverse":
                self.problems.append(
                    "parameters.rescale: mergekit cannot combine inverse with normalize. "
                    "Set rescale: l1, or normalize: false."
                )
        if self.method.elects and negative:
            named = ", ".join(source for source in self.recipe.sources if source in negative)
            self.problems.append(
                f"parameters.weight: negative for {named}, and with normalize mergekit loses the "
                "sign. Set normalize: false, or raise it to 0."
            )

    def _write(self, name: str, value: Value) -> Any:
        try:
            return self.layout.setting(value)
        except ExportError as error:
            self.problems += [f"parameters.{name}: {problem}" for problem in error.problems]
            return None

    def _emptied(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """The first tensor of which some density keeps less than one element."""
        if "density" not in self.method.per_source:
            return None
        densities = [self._at("density", source) for source in self.recipe.sources]
        for name, shape in shapes.items():
            if name in self.layout.places and math.prod(shape) > 0:
                kept = [density(*self.layout.places[name]) for density in densities]
                if any(float(d) * math.prod(shape) < 1 for d in kept):
                    return name
        return None


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
