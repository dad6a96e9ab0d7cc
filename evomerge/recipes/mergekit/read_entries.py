"""Which models a mergekit YAML merges, slice by slice, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evomerge.recipes import ROLES, Recipe
from evomerge.recipes._stack import BASE
from evomerge.recipes.mergekit.methods import Method
from evomerge.recipes.mergekit.read_settings import Problem, Scope, check_keys

Model = str | Recipe


class Part(NamedTuple):
    """One model of a slice.

    Attributes:
        scope: the parameters that it sets itself.
        start: its first block there; None where all of its blocks are meant.
        copy: how many parts of the slice before it have the same model.
        listed: whether the YAML names it.
    """

    model: Model
    scope: Scope
    start: int | None = None
    copy: int = 0
    listed: bool = True


class Run(NamedTuple):
    """One slice.

    Attributes:
        scope: the parameters of the slice.
        length: how many blocks it has; None where all of every model's are meant.
        base: the slice's own base model.
    """

    parts: tuple[Part, ...]
    scope: Scope
    length: int | None = None
    base: Model | None = None


@dataclass(frozen=True, slots=True)
class Entries:
    """Reads ``models`` and ``slices``.

    Args:
        named: recipes that may stand in place of models, by name.
        problem: takes what is wrong.
    """

    named: Mapping[str, Recipe]
    problem: Problem

    def model(self, value: Any, path: str) -> Model:
        """A model as we write it: a folder, ``org/name[@revision]``, or a recipe."""
        if isinstance(value, dict) and isinstance(value.get("model"), dict):
            if value.get("lora") or value.get("override_architecture"):
                self.problem(path, "an adapter or another architecture cannot be read")
            inner = value["model"]
            revision = inner.get("revision")
            return f"{inner.get('path')}@{revision}" if revision else f"{inner.get('path')}"
        if isinstance(value, dict):
            return self.model(value.get("model"), path)
        if not isinstance(value, str):
            self.problem(path, f"expected a model, got {value!r}")
            return ""
        if "+" in value:
            self.problem(path, f"{value}: merge the adapter into its model first")
        return self.named.get(value, value)

    def runs(self, content: dict[str, Any], path: str) -> list[Run]:
        """The slices of a YAML, or of one of its modules; ``models`` are one slice."""
        if "models" in content and "slices" in content:
            self.problem(f"{path}slices", "give either models or slices")
        if "slices" not in content:
            at = f"{path}models"
            parts = self._parts(content.get("models"), at, ("model", "parameters"))
            for part in parts:
                count = sum(1 for other in parts if other.model == part.model)
                if part.copy == 1:
                    self.problem(at, f"{shown(part.model)} is given {count} times")
            return [Run(parts, (at, None))]
        slices = content["slices"]
        if not isinstance(slices, list) or not slices:
            self.problem(f"{path}slices", "expected a list of slices")
            return []
        return [self._run(slice_, f"{path}slices.{n}") for n, slice_ in enumerate(slices)]

    def _run(self, slice_: Any, path: str) -> Run:
        known = ("sources", "base_model", "parameters", "residual_weight")
        keys = check_keys(slice_, path, known, self.problem)
        base = keys.get("base_model")
        own = None if base is None else self.model(base, f"{path}.base_model")
        at = f"{path}.sources"
        parts = self._parts(keys.get("sources"), at, ("model", "layer_range", "parameters"))
        lengths = []
        placed = []
        for number, part in enumerate(parts):
            source = keys["sources"][number]
            given = source.get("layer_range") if isinstance(source, dict) else None
            found = _range(given)
            if found is None:
                expected = "expected [start, end] with 0 <= start < end"
                self.problem(f"{at}.{number}.layer_range", f"{expected}, got {given!r}")
                continue
            lengths.append(found[1] - found[0])
            placed.append(part._replace(start=found[0]))
        if len(set(lengths)) > 1:
            shown_lengths = ", ".join(map(str, lengths))
            self.problem(at, f"the ranges differ in length: {shown_lengths} blocks")
        scope = (f"{path}.parameters", keys.get("parameters"))
        return Run(tuple(placed), scope, lengths[0] if lengths else 1, own)

    def _parts(self, items: Any, path: str, known: Sequence[str]) -> tuple[Part, ...]:
        if not isinstance(items, list) or not items:
            self.problem(path, "expected a list of models")
            return ()
        parts: list[Part] = []
        for number, item in enumerate(items):
            at = f"{path}.{number}"
            keys = check_keys(item, at, known, self.problem)
            model = self.model(keys.get("model"), f"{at}.model") if keys else ""
            copy = sum(1 for part in parts if model and part.model == model)
            scope = (f"{at}.parameters", keys.get("parameters"))
            parts.append(Part(model, scope, copy=copy))
        return tuple(parts)


def shown(model: Model) -> str:
    """A model for messages."""
    return model if isinstance(model, str) else f"the merge with {model.operator}"


def sources_of(run: Run, name: str, method: Method, base: Model | None) -> list[Part]:
    """The parts of a slice that are sources to us, in our order."""
    base_parts = [p for p in run.parts if p.model == base and not p.copy]
    others = [p for p in run.parts if p.model != base or p.copy]
    if name == "slerp":
        # the base among the models is the first of two sources
        return [p for p in base_parts if p.listed] + others
    if method.base == "ignored":
        if name == "linear" and others and base_parts and _weight(base_parts[0]) == 0:
            return others
        return list(run.parts)
    return others  # mergekit ignores what is set for the base


def source_names(
    runs: Sequence[Sequence[Part]], named: Mapping[str, Recipe]
) -> list[tuple[str, Model, int]]:
    """A short name for each source, with its model and copy: the last part of its path."""
    found: list[tuple[str, Model, int]] = []
    for part in (part for parts in runs for part in parts):
        if any(model == part.model and copy == part.copy for _, model, copy in found):
            continue
        taken = [name for name, _, _ in found]
        stem = _stem(part.model, named)
        stem = f"{stem}-model" if stem in ROLES else stem
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}-{number}", number + 1
        found.append((name, part.model, part.copy))
    return found


def slices_of(
    runs: Sequence[Run],
    chosen: Sequence[Sequence[Part]],
    sources: Sequence[tuple[str, Model, int]],
    base: Model,
) -> list[dict[str, list[int]]]:
    """The slices of a recipe; blocks of the base stand there where it is no source."""
    is_source = any(model == base and not copy for _, model, copy in sources)
    found = []
    for run, parts in zip(runs, chosen, strict=True):
        slice_ = {}
        if not is_source:
            starts = [p.start for p in run.parts if p.model == base and p.start is not None]
            slice_ = {BASE: starts[0]} if starts else {}
        for name, model, copy in sources:
            for part in parts:
                if part.model == model and part.copy == copy and part.start is not None:
                    slice_[name] = part.start
        length = run.length or 1
        found.append({name: [start, start + length] for name, start in slice_.items()})
    return found


def are_whole(slices: Sequence[Mapping[str, Sequence[int]]], layers: Sequence[int]) -> bool:
    """Whether slices say no more than that every block is merged with those of its number.

    Args:
        layers: blocks of the base and of every source.
    """
    end = 0
    for slice_ in slices:
        if set(slice_) != set(slices[0]) or any(start != end for start, _ in slice_.values()):
            return False
        end = next(iter(slice_.values()))[1]
    return all(count == end for count in layers)


def _stem(model: Model, named: Mapping[str, Recipe]) -> str:
    if not isinstance(model, str):
        return next((name for name, recipe in named.items() if recipe is model), "merge")
    return model.partition("@")[0].rstrip("/").rpartition("/")[2] or "model"


def _range(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    if any(not isinstance(end, int) or isinstance(end, bool) for end in value):
        return None
    return (value[0], value[1]) if 0 <= value[0] < value[1] else None


def _weight(part: Part) -> Any:
    """The weight that a model sets itself."""
    scope = part.scope[1]
    return scope.get("weight") if isinstance(scope, dict) else None
