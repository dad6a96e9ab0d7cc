"""What mergekit does otherwise: why a recipe is refused, and comments where results differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe, Scalar
from evomerge.recipes.mergekit.methods import RESCALED
from evomerge.recipes.mergekit.write_settings import Values

# By operator, the parameters that have no parameter of mergekit's for themselves.
SPECIAL = {
    "nuslerp": ("space", "axis"),
    "multislerp": ("space",),
    "karcher": ("weight",),
    "model_stock": ("clamp",),
    "sce": ("coefficient_floor",),
}
# They divide task vectors by the sum of the weights, whatever its sign.
_DIVIDING = ("task_arithmetic", "dare_linear", "della_linear", "breadcrumbs")
_RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")
_SHORTEST_TEMPLATE = 20  # characters


def whole(recipe: Recipe) -> Iterator[str]:
    """What no mergekit YAML can hold, whatever the operator."""
    named = [("base", recipe.base), *((f"sources.{n}", m) for n, m in recipe.sources.items())]
    for where, model in named:
        if isinstance(model, Recipe):
            yield (
                f"{where}: mergekit knows no recipe in place of a model. Build it first, and give "
                "the folder."
            )
        elif "+" in model or ("@" in model and model.startswith(("/", ".", "~"))):
            yield (
                f"{model}: mergekit reads + and @ in a model's path as adapter and revision. "
                "Rename the folder."
            )
        elif (Path(model) / "adapter_config.json").exists():
            yield (
                f"{where}: mergekit rounds an adapter and its base to the base's dtype before it "
                "merges them. Build the adapter on its base first, and give the folder."
            )
    if recipe.statistics:
        yield "statistics: mergekit has no operator that uses them."
    if recipe.allow_missing:
        yield "allow_missing: mergekit merges no models that lack tensors. Build the recipe."
    template = recipe.chat_template or ""
    if "{" in template and len(template) < _SHORTEST_TEMPLATE:
        yield "chat_template: mergekit takes a text this short for a wrong name."


def repeated(recipe: Recipe) -> Iterator[str]:
    """Models that stand twice in one slice."""
    parts: Iterable[Iterable[str]] = [s.keys() for s in recipe.slices] or [recipe.sources.keys()]
    for part in parts:
        models = [m for name, m in recipe.sources.items() if name in part and isinstance(m, str)]
        for model, count in Counter(models).items():
            if count > 1:
                yield (
                    f"sources: {model} is given {count} times, mergekit takes a model once. "
                    "Drop one and add its weight to the other."
                )


def parameters(values: Values) -> Iterator[str]:
    """Parameters that mergekit lacks, and values that it does not know."""
    recipe, method = values.recipe, values.method
    known = {**method.defaults, **method.fixed}
    special = (*SPECIAL.get(recipe.operator, ()), *(("negative",) if method.elects else ()))
    for name in recipe.parameters:
        if name not in known and name not in special:
            yield (
                f"parameters.{name}: unknown to mergekit's {recipe.operator}."
                f"{did_you_mean(name, method.defaults)}"
            )
    for name, only in method.fixed.items():
        if wrong := [value for value in values.every(name) if value != only]:
            yield (
                f"parameters.{name}: mergekit's {recipe.operator} has no {_shown(wrong[0])}. "
                f"Set it to {_shown(only, plain=True)}."
            )
    for name in ("space", "axis", "clamp", "coefficient_floor"):
        if name in special and not isinstance(recipe.parameters.get(name), (Scalar, type(None))):
            yield f"parameters.{name}: mergekit has one value for all tensors. Give one."
    weight = recipe.parameters.get("weight")
    if recipe.operator == "karcher" and isinstance(weight, (dict, list)):
        yield "parameters.weight: mergekit's karcher weighs all models alike. Remove it."
    threshold = recipe.parameters.get("coefficient_floor", 0.0)
    if recipe.operator == "sce" and threshold not in (0.0, method.dialect["coefficient_floor"]):
        yield f"parameters.coefficient_floor: mergekit knows 1e-6 alone, got {threshold}."


def weights(values: Values) -> Iterator[str]:
    """Weights with which mergekit divides by another sum than we do, or elects other signs."""
    recipe, method = values.recipe, values.method
    if "weight" not in method.per_source:
        return
    lost: set[str] = set()  # sources whose negative weight would lose its sign,
    voting: set[str] = set()  # vote on the sign of the sum,
    turned: set[str] = set()  # or add the task vector
    for spot in values.settings.spots:
        of = {source: values.at("weight", source, spot) for source in recipe.sources}
        numbers = {source: w for source, w in of.items() if isinstance(w, float)}
        below = {source for source, w in numbers.items() if w < 0}
        divides = "normalize" in method.shared and bool(values.at("normalize", None, spot))
        if method.elects and values.at("negative", None, spot) != "elect":
            voting |= below
        if _turns(recipe.operator, numbers, normalize=divides):
            turned |= below
        if not divides:
            continue
        lost |= below
        if recipe.operator in ("linear", "multislerp") and abs(math.fsum(numbers.values())) < 1e-8:
            yield (
                "parameters.weight: the weights add up to 0, by which mergekit divides. "
                "Set normalize: false, or change one."
            )
        is_dare = recipe.operator.startswith("dare")
        if is_dare and values.at("rescale", None, spot) == "inverse":
            yield (
                "parameters.rescale: mergekit cannot combine inverse with normalize. "
                "Set rescale: l1, or normalize: false."
            )
    if turned:
        yield (
            f"parameters.weight: negative for {_listed(recipe, turned)}, and mergekit would add "
            "what is to be subtracted. Set normalize: false where there is such a key, or raise it."
        )
    if method.elects and lost:
        yield (
            f"parameters.weight: negative for {_listed(recipe, lost)}, and with normalize mergekit "
            "loses the sign. Set normalize: false, or raise it to 0."
        )
    elif voting:
        yield (
            f"parameters.weight: negative for {_listed(recipe, voting)}, which in mergekit has a "
            "vote on the sign. Set negative: elect."
        )


def rescale(values: Values) -> Iterator[str]:
    """Ways to rescale what is left of a task vector that mergekit does not have."""
    if "rescale" not in values.method.shared:
        return
    wrong = [str(word) for word in values.every("rescale") if word not in ("none", "l1")]
    if values.method.name in RESCALED and wrong:
        yield (
            f"parameters.sparsify_rescale: mergekit's {values.method.name} has no {min(wrong)}. "
            "Set it to l1."
        )
    sources = values.recipe.sources if values.method.name.startswith("della") else ()
    if values.inverse and any(values.every("density", source) != [1] for source in sources):
        yield (
            "parameters.rescale: mergekit cannot divide each element by its own probability. "
            "Set rescale: l1."
        )


def remarks(values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Lines of text: what differs, and why values are not the recipe's."""
    recipe, method = values.recipe, values.method
    operator = recipe.operator
    yield "For mergekit 0.1.5 or newer. As in evomerge, arithmetic is float32 (dtype)"
    yield "and the result is rounded once, to out_dtype."
    if recipe.tokenizer == "base":
        yield "mergekit cuts rows of embedding and head that belong to no token; evomerge keeps"
        yield "the base's shape."
    first = next(iter(recipe.sources.values()))
    if operator == "slerp" and len(recipe.sources) == 2 and first != recipe.base:
        yield "mergekit takes config and tokenizer from base_model, evomerge from"
        yield f"{recipe.base}: copy them from there."
    if method.base == "optional" and recipe.parameters.get("space") == "weights":
        yield "mergekit takes config and tokenizer from any of the models, evomerge from"
        yield f"{recipe.base}: copy them from there."
    if operator in _RANDOM:
        yield "mergekit draws its own random masks, others on every run: the merge has the same"
        yield "distribution as evomerge's, not the same weights."
        if "inverse" in values.every("rescale"):
            yield "Each weight has been divided by its density: evomerge's rescale: inverse."
    elif {"density", "sparsify_density"} & set(recipe.parameters):
        yield "Of elements equal in magnitude at the edge of a density, mergekit keeps any,"
        yield "evomerge the first: a few elements per tensor can differ."
    if "density" in method.per_source and operator not in _RANDOM:
        yield from _emptied(values, shapes)
    if operator == "model_stock" and recipe.parameters.get("clamp", True):
        yield "Where task vectors point apart on average, mergekit extrapolates; evomerge takes"
        yield "the base."
    if operator == "sce" and not recipe.parameters.get("coefficient_floor"):
        yield "Of task vectors whose squares add up to less than 1e-6, mergekit takes the mean."
    if operator == "arcee_fusion":
        yield "mergekit draws a sample of large tensors to find its threshold, evomerge sorts them."


def _emptied(values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """The first tensor of which some density keeps less than one element."""
    for spot in values.settings.spots:
        count = math.prod(shapes.get(spot.tensor, (0,)))
        densities = (values.at("density", source, spot) for source in values.recipe.sources)
        if count and any(float(density) * count < 1 for density in densities):
            if values.method.name == "ties":
                yield (
                    f"mergekit before 0.1.5 stops at {spot.tensor}: the density leaves no element."
                )
            else:
                yield f"Of {spot.tensor} mergekit keeps no element, evomerge one."
            return


def _shown(value: Any, *, plain: bool = False) -> str:
    """A value as a person writes it in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if plain or not isinstance(value, str) else repr(value)


def _turns(operator: str, weight: Mapping[str, float], *, normalize: bool) -> bool:
    """Whether mergekit adds task vectors whose weights say that they are subtracted."""
    if operator == "multislerp":  # it turns their directions and their mean length
        return any(w < 0 for w in weight.values())
    divides = operator == "nuslerp" or (normalize and operator in _DIVIDING)
    return divides and math.fsum(weight.values()) < 0


def _listed(recipe: Recipe, sources: set[str]) -> str:
    return ", ".join(source for source in recipe.sources if source in sources)
