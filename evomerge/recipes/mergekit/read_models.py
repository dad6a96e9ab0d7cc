"""Which models a mergekit YAML merges, slice by slice, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import shown
from evomerge.recipes import BASE, ROLES, Recipe
from evomerge.recipes.mergekit.methods import MergeMethod
from evomerge.recipes.mergekit.read_settings import Parameters, Problems
from evomerge.recipes.references import PICKLES, SAFETENSORS

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
        """A model as recipes name it: a folder, ``org/name[@revision]``, or a recipe.

        ``model+adapter`` is the recipe that adds the adapter to the model.
        """
        adapter: Any = None
        if isinstance(value, dict) and "path" not in value:
            keys = self.problems.check_keys(value, path, ("model", "lora", "override_architecture"))
            if keys.get("override_architecture"):
                self.problems.add(
                    f"{path}.override_architecture",
                    "a model is read as what its config.json says. Change 'architectures' there, "
                    "and remove this key",
                )
            value, adapter = keys.get("model"), keys.get("lora")
        if isinstance(value, str) and adapter is None and "+" in value:
            value, _, adapter = value.partition("+")
        name = self._reference(value, path)
        model = self.named.get(name, name)
        if adapter is None or not name:
            return model
        lora = self._reference(adapter, f"{path}.lora" if isinstance(adapter, dict) else path)
        return model if not lora else with_adapter(model, lora)

    def _reference(self, value: Any, path: str) -> str:
        """``org/name[@revision]`` or a folder, also from the keys path and revision."""
        if isinstance(value, dict):
            keys = self.problems.check_keys(value, path, ("path", "revision"))
            name, revision = keys.get("path"), keys.get("revision")
            value = f"{name}@{revision}" if isinstance(name, str) and revision else name
        if not isinstance(value, str) or not value:
            self.problems.add(path, f"expected a model, got {shown(value)}")
            return ""
        if "+" in value:
            self.problems.add(path, f"expected a model, or model+adapter, got {shown(value)}")
        if value.endswith((*SAFETENSORS, *PICKLES)) and not Path(value).is_dir():
            self.problems.add(
                path,
                f"{shown(value)} is a file, as mergekit-pytorch takes them. Put it in a folder of "
                "its own as model.safetensors, which evomerge convert FOLDER OUT makes of a .bin "
                "file, and name the folder",
            )
        return value

    def slices(self, content: dict[str, Any], path: str) -> list[OutputSlice]:
        """The slices of a YAML, or of one of its modules; ``models`` are one slice."""
        if content.get("models") and content.get("slices"):
            self.problems.add(f"{path}slices", "give either models or slices")
        if not content.get("slices"):
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
        keys = self.problems.check_keys(slice_, path, ("sources", "base_model", "parameters"))
        base = keys.get("base_model")
        own = None if base is None else self.model(base, f"{path}.base_model")
        at = f"{path}.sources"
        models = self._models(keys.get("sources"), at, ("model", "layer_range", "parameters"))
        lengths: list[int] = []
        placed: list[SliceModel] = []
        for number, one in enumerate(models):
            source = keys["sources"][number]
            blocks: Any = source.get("layer_range") if isinstance(source, dict) else None
            first, end = _range(blocks)
            if 0 <= first < end:
                lengths.append(end - first)
                placed.append(one._replace(start=first))
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
            keys = self.problems.check_keys(item, at, (*known, "revision"))
            if not keys:
                self.problems.add(at, f"expected a model, got {shown(item)}")
            model = self.model(keys.get("model"), f"{at}.model") if keys else ""
            if keys.get("revision") and isinstance(model, str):
                meant = f"{model}@{keys['revision']}"
                self.problems.note(
                    f"{at}.revision", f"mergekit ignores this key. To take it, write model: {meant}"
                )
            copy = sum(1 for other in models if model and other.model == model)
            parameters = (f"{at}.parameters", keys.get("parameters"))
            models.append(SliceModel(model, parameters, copy=copy))
        return tuple(models)


def _range(blocks: Any) -> tuple[int, int]:
    """First block and end, of numbers or, as mergekit reads them, their texts; (0, 0) if wrong."""
    if not isinstance(blocks, list) or len(blocks) != 2:
        return 0, 0
    try:
        first, end = (float(block) if isinstance(block, str) else block for block in blocks)
        numbers = int(first), int(end)
    except (TypeError, ValueError, OverflowError):
        return 0, 0
    return numbers if numbers == (first, end) else (0, 0)


def with_adapter(model: Model, adapter: str) -> Recipe:
    """The model with a LoRA adapter added, in float32."""
    name = stem_of(adapter)
    return Recipe(base=model, sources={name: adapter}, operator="linear", dtype="float32")


def adapter_on(model: Model, base: Model) -> Model:
    """The adapter alone where the model is one that is added to this base, else the model."""
    if isinstance(model, Recipe) and len(model.sources) == 1 and model.base == base:
        adapter = next(iter(model.sources.values()))
        if isinstance(adapter, str) and model == with_adapter(base, adapter):
            return adapter
    return model


def stem_of(reference: str) -> str:
    """What a source is called: the last part of its path, unless that is a role."""
    stem = reference.partition("@")[0].rstrip("/").rpartition("/")[2] or "model"
    return f"{stem}-model" if stem in ROLES else stem


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
            stem = stem_of(one.model)
        else:
            alone = next(iter(one.model.sources)) if len(one.model.sources) == 1 else "merge"
            stem = next((name for name, recipe in named.items() if recipe is one.model), alone)
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
