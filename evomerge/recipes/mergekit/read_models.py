"""Which models a mergekit YAML merges, slice by slice, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evomerge.errors import shown
from evomerge.recipes import BASE, ROLES, Recipe
from evomerge.recipes.mergekit.methods import MergeMethod
from evomerge.recipes.mergekit.read_settings import Parameters, Problems

Model = str | Recipe


class SliceModel(NamedTuple):
    """One model of a slice.

    Attributes:
        parameters: that it sets itself.
        start: its first block there; None where all of its blocks are meant.
        copy: how many entries before it in the slice have the same model.
        listed: whether the YAML names it.
    """

    model: Model
    parameters: Parameters
    start: int | None = None
    copy: int = 0
    listed: bool = True


class OutputSlice(NamedTuple):
    """One slice of the output.

    Attributes:
        models: in the order of the YAML.
        parameters: of all of its models.
        length: how many blocks it has; None where all of every model's are meant.
        base: the slice's own base model.
        sources: those of the models that are sources of the recipe, in its order.
    """

    models: tuple[SliceModel, ...]
    parameters: Parameters
    length: int | None = None
    base: Model | None = None
    sources: tuple[SliceModel, ...] = ()


class Source(NamedTuple):
    """A source of the recipe: a model, or another copy of it in the same slice."""

    name: str
    model: Model
    copy: int

    def within(self, slice_: OutputSlice) -> SliceModel | None:
        """The source's entry in a slice; None where it takes no part there."""
        same = (s for s in slice_.sources if s.model == self.model and s.copy == self.copy)
        return next(same, None)


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Reads the keys ``models`` and ``slices`` of a mergekit YAML.

    Args:
        named: recipes that may stand in place of models, by name.
        problems: takes what is wrong.
    """

    named: Mapping[str, Recipe]
    problems: Problems

    def model(self, value: Any, path: str) -> Model:
        """A model as recipes name it: a folder, ``org/name[@revision]``, or a recipe."""
        if isinstance(value, dict) and isinstance(value.get("model"), dict):
            if value.get("lora") or value.get("override_architecture"):
                self.problems.add(path, "an adapter or another architecture cannot be read")
            inner = value["model"]
            revision = inner.get("revision")
            return f"{inner.get('path')}@{revision}" if revision else f"{inner.get('path')}"
        if isinstance(value, dict):
            return self.model(value.get("model"), path)
        if not isinstance(value, str):
            self.problems.add(path, f"expected a model, got {shown(value)}")
            return ""
        if "+" in value:
            self.problems.add(path, f"{value}: merge the adapter into its model first")
        return self.named.get(value, value)

    def slices(self, content: dict[str, Any], path: str) -> list[OutputSlice]:
        """The slices of a YAML, or of one of its modules; ``models`` are one slice."""
        if "models" in content and "slices" in content:
            self.problems.add(f"{path}slices", "give either models or slices")
        if "slices" not in content:
            at = f"{path}models"
            models = self._models(content.get("models"), at, ("model", "parameters"))
            for one in models:
                if one.copy == 1:
                    count = sum(1 for other in models if other.model == one.model)
                    self.problems.add(at, f"{title_of(one.model)} is given {count} times")
            return [OutputSlice(models, (at, None))]
        slices = content["slices"]
        if not isinstance(slices, list) or not slices:
            self.problems.add(f"{path}slices", "expected a list of slices")
            return []
        return [self._slice(slice_, f"{path}slices.{n}") for n, slice_ in enumerate(slices)]

    def _slice(self, slice_: Any, path: str) -> OutputSlice:
        known = ("sources", "base_model", "parameters", "residual_weight")
        keys = self.problems.check_keys(slice_, path, known)
        base = keys.get("base_model")
        own = None if base is None else self.model(base, f"{path}.base_model")
        at = f"{path}.sources"
        models = self._models(keys.get("sources"), at, ("model", "layer_range", "parameters"))
        lengths: list[int] = []
        placed: list[SliceModel] = []
        for number, one in enumerate(models):
            source = keys["sources"][number]
            blocks: Any = source.get("layer_range") if isinstance(source, dict) else None
            is_pair = isinstance(blocks, list) and [type(end) for end in blocks] == [int, int]
            if is_pair and 0 <= blocks[0] < blocks[1]:
                lengths.append(blocks[1] - blocks[0])
                placed.append(one._replace(start=blocks[0]))
            else:
                expected = "expected [start, end] with 0 <= start < end"
                self.problems.add(f"{at}.{number}.layer_range", f"{expected}, got {shown(blocks)}")
        if len(set(lengths)) > 1:
            listed = ", ".join(map(str, lengths))
            self.problems.add(at, f"the ranges differ in length: {listed} blocks")
        parameters = (f"{path}.parameters", keys.get("parameters"))
        return OutputSlice(tuple(placed), parameters, lengths[0] if lengths else 1, own)

    def _models(self, items: Any, path: str, known: Sequence[str]) -> tuple[SliceModel, ...]:
        if not isinstance(items, list) or not items:
            self.problems.add(path, "expected a list of models")
            return ()
        models: list[SliceModel] = []
        for number, item in enumerate(items):
            at = f"{path}.{number}"
            keys = self.problems.check_keys(item, at, known)
            model = self.model(keys.get("model"), f"{at}.model") if keys else ""
            copy = sum(1 for other in models if model and other.model == model)
            parameters = (f"{at}.parameters", keys.get("parameters"))
            models.append(SliceModel(model, parameters, copy=copy))
        return tuple(models)


def title_of(model: Model) -> str:
    """What messages call a model."""
    return model if isinstance(model, str) else f"the merge with {model.operator}"


def sources_of(
    slice_: OutputSlice, method: MergeMethod, base: Model | None
) -> tuple[SliceModel, ...]:
    """The models of a slice that are sources of the recipe, in its order."""
    of_base = tuple(one for one in slice_.models if one.model == base and not one.copy)
    others = tuple(one for one in slice_.models if one.model != base or one.copy)
    if method.name == "slerp":
        # the base among the models is the first of two sources
        return (*(one for one in of_base if one.listed), *others)
    if method.base == "ignored":
        _, own = of_base[0].parameters if of_base else ("", None)
        is_idle = isinstance(own, dict) and own.get("weight") == 0
        return others if method.name == "linear" and others and is_idle else slice_.models
    return others  # mergekit ignores what is set for the base


def named_sources(slices: Sequence[OutputSlice], named: Mapping[str, Recipe]) -> list[Source]:
    """The sources of all slices, each called after the last part of its path."""
    sources: list[Source] = []
    for one in (one for slice_ in slices for one in slice_.sources):
        if any(other.model == one.model and other.copy == one.copy for other in sources):
            continue
        if isinstance(one.model, str):
            stem = one.model.partition("@")[0].rstrip("/").rpartition("/")[2] or "model"
        else:
            stem = next((name for name, recipe in named.items() if recipe is one.model), "merge")
        stem = f"{stem}-model" if stem in ROLES else stem
        name, number = stem, 2
        while any(name == other.name for other in sources):
            name, number = f"{stem}-{number}", number + 1
        sources.append(Source(name, one.model, one.copy))
    return sources


def slices_of(
    slices: Sequence[OutputSlice], sources: Sequence[Source], base: Model
) -> list[dict[str, list[int]]]:
    """The slices of a recipe; they include blocks of the base also where it is not a source."""
    is_source = any(one.model == base and not one.copy for one in sources)
    ranges = []
    for slice_ in slices:
        starts: dict[str, int | None] = {}
        if not is_source:
            starts[BASE] = next((one.start for one in slice_.models if one.model == base), None)
        for source in sources:
            own = source.within(slice_)
            starts[source.name] = own.start if own else None
        length = slice_.length or 1
        ranges.append({n: [at, at + length] for n, at in starts.items() if at is not None})
    return ranges


def are_whole(slices: Sequence[Mapping[str, Sequence[int]]], layers: Sequence[int]) -> bool:
    """Whether slices only say that blocks of the same number are merged.

    Args:
        layers: blocks of the base and of every source.
    """
    if any(set(slice_) != set(slices[0]) for slice_ in slices):
        return False
    blocks = [[n for one in slices for n in range(*one[name])] for name in slices[0]]
    return all(own == list(range(count)) for own in blocks for count in layers)
