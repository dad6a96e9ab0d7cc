"""Where the genes of the space `parameter` set values: from genes to settings, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from evomerge.errors import Problem, shown
from evomerge.recipes import ROLES, Recipe
from evomerge.spaces._parameter_range import Granularity, Range, softmax
from evomerge.types import Gene, Genome, Parameter


class Spot(NamedTuple):
    """A place at which a gene sets a value; an empty source or role stands for all."""

    source: str
    role: str
    group: int

    @property
    def words(self) -> tuple[str, ...]:
        """What is not all, for messages."""
        return tuple(word for word in (self.source, self.role) if word)


@dataclass(frozen=True)
class GeneTable:
    """The genes of all parameters that vary.

    Attributes:
        settings: name to a `Range`, or to a fixed setting.
        sources: names.
        layers: blocks of the base.
        granularity: of all parameters that do not name their own.
        by_source: names of the parameters of which every source has its own value.
    """

    settings: Mapping[str, Any]
    sources: Sequence[str]
    layers: int
    granularity: Granularity
    by_source: Collection[str]

    @cached_property
    def layout(self) -> dict[str, dict[Spot, Parameter]]:
        """Name to the genes, by their places."""
        return {
            name: {
                spot: replace(setting.parameter(label), group=f"{name}.{spot.source}")
                for spot, label in self._genes(name, setting)
            }
            for name, setting in self.settings.items()
            if isinstance(setting, Range)
        }

    def values(self, name: str, genome: Genome) -> dict[Spot, Gene]:
        """The parameter's value at every place."""
        span = self.settings[name]
        genes = {spot: genome.genes[gene.name] for spot, gene in self.layout[name].items()}
        if not span.simplex:
            return {spot: span.value(gene) for spot, gene in genes.items()}
        values: dict[Spot, Gene] = {}
        for spot in self._spots(name, span):
            logits = [float(genes.get(spot._replace(source=s), 0.0)) for s in self.sources]
            values[spot] = softmax(logits)[list(self.sources).index(spot.source)]
        return values

    def setting(self, name: str, genome: Genome) -> Any:
        """The parameter's setting in a recipe, from the genes."""
        values = self.values(name, genome)
        groups = self._groups(self.settings[name])
        setting: dict[str, dict[str, list[Any]]] = {}
        for spot, value in values.items():
            row = setting.setdefault(spot.source, {}).setdefault(spot.role, [None] * self.layers)
            for layer in self._layers_of(spot.group, groups):
                row[layer] = value
        by_source = {source: by_role.get("", by_role) for source, by_role in setting.items()}
        return by_source.get("", by_source)

    def genes(self, name: str, recipe: Recipe) -> tuple[dict[str, Gene], list[Problem]]:
        """The genes that give a recipe's setting, and what of it no genes can give.

        A value outside the bounds is moved to the nearest one within.

        Args:
            name: of a parameter that varies.
        """
        if _by_tensor(recipe.parameters.get(name)):
            return {}, [Problem((name,), "set by names of tensors, which no gene is.")]
        counts = [(path, n) for path, n in recipe.lists() if path.split(".")[0] == name]
        if problems := [
            Problem((path,), f"{n} values, but the base has {self.layers} blocks.")
            for path, n in counts
            if n != self.layers
        ]:
            return {}, problems
        span: Range = self.settings[name]
        values: dict[Spot, Any] = {}
        for spot in self._spots(name, span):
            first, *others = self._found(name, span, spot, recipe)
            if others:
                text = f"{shown(first)} and {shown(others[0])}, where this space has one value."
                cure = "Set a finer granularity."
                problems.append(Problem((name, *spot.words), text, cure))
            elif first is not None:
                values[spot] = first
        genes: dict[str, Gene] = {}
        for spot, gene in self.layout[name].items():
            if spot not in values:
                continue
            # of a simplex the first source has no gene: the others' are relative to it
            first = values.get(spot._replace(source=self.sources[0])) if span.simplex else 1.0
            if why := span.refusal(values[spot], relative_to=first):
                problems.append(Problem((name, *spot.words), why))
            if span.is_typed(values[spot]) and first is not None:
                genes[gene.name] = span.gene(values[spot], relative_to=first)
        return genes, problems

    def _found(self, name: str, span: Range, spot: Spot, recipe: Recipe) -> list[Any]:
        """The different values of a setting at the places that one gene sets; at least one."""
        named = (span.granularity or self.granularity).roles
        roles = [role for role in ROLES if role not in named or role == "other"]
        if spot.role and spot.role != "other":
            roles = [spot.role]
        found = {
            recipe.setting(name, source, role, layer, ""): None
            for source in ([spot.source] if spot.source else self.sources)
            for role in roles
            for layer in self._layers_of(spot.group, self._groups(span))
        }
        return list(found)

    def _layers_of(self, group: int, groups: int) -> list[int]:
        return [layer for layer in range(self.layers) if layer * groups // self.layers == group]

    def _groups(self, span: Range) -> int:
        return (span.granularity or self.granularity).groups(self.layers)

    def _spots(self, name: str, span: Range) -> Iterator[Spot]:
        """Every place at which a parameter has a value of its own."""
        granularity = span.granularity or self.granularity
        for source in self.sources if name in self.by_source else ("",):
            for role in granularity.roles or ("",):
                for group in range(self._groups(span)):
                    yield Spot(source, role, group)

    def _genes(self, name: str, span: Range) -> Iterator[tuple[Spot, str]]:
        """The places that have a gene, each with the gene's name."""
        for spot in self._spots(name, span):
            if not (span.simplex and spot.source == self.sources[0]):
                group = str(spot.group) if self._groups(span) > 1 else ""
                parts = [name, spot.source, spot.role, group]
                yield spot, ".".join(part for part in parts if part)


def _by_tensor(setting: Any) -> bool:
    """Whether a setting, or that of a source, is by parts of the names of tensors."""
    if isinstance(setting, Mapping):
        return any(_by_tensor(inner) for inner in setting.values())
    return isinstance(setting, list) and isinstance(setting[0], Mapping)
