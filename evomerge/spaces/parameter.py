"""The parameter space: which operator, at which settings, per source, layer and role.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.1 (merging in the parameter space).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from evomerge.errors import ConfigError, Problem, RecipeError, shown
from evomerge.operators import Operator
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces._encoding import of_other_kind, of_other_models
from evomerge.spaces._parameter_genes import GeneTable, Spot
from evomerge.spaces._parameter_range import Granularity, Range
from evomerge.spaces._parameter_settings import (
    chosen_operators,
    domain_problems,
    read_settings,
    varies,
)
from evomerge.spaces._parameter_starts import operator_starts
from evomerge.types import Gene, Genome, Parameter, Proposal

__all__ = ["Granularity", "ParameterSpace", "Range"]


class ParameterSpace(Space):
    """One or several operators with free parameters.

    Args:
        context: models, depth, dtype and seed.
        operator: a name, or a list: then the operator is searched too.
        granularity: of all parameters that do not name their own.
        parameters: name to a `Range`, or to a fixed setting as in a recipe.
        order: search the order of the sources, for operators to which it matters: they are
            sorted by genes of their own.

    Raises:
        ConfigError: unknown parameters, empty ranges, values outside an operator's domain.
    """

    def __init__(
        self,
        context: SearchContext,
        *,
        operator: str | list[str],
        granularity: Granularity | None = None,
        parameters: dict[str, Any] | None = None,
        order: bool = False,
    ) -> None:
        self.context = context
        self.operators = (operator,) if isinstance(operator, str) else tuple(operator)
        self._granularity = granularity or Granularity()
        settings, problems = read_settings(parameters or {}, context.sources)
        chosen, wrong = chosen_operators(self.operators)
        problems += wrong
        if chosen and not wrong:
            problems += domain_problems(settings, chosen)
            if order and not any(o.ordered for o in chosen):
                label = " and ".join(o.name for o in chosen)
                text = f"that of the sources does not matter to {label}"
                problems.append(Problem(("order",), text, about=("operator",)))
        if problems:
            raise ConfigError(problems)
        self._chosen = {o.name: o for o in chosen}
        self._order = [
            Parameter(f"order.{name}", "float", 0.5)
            for name in context.sources
            if order and len(context.sources) > 1
        ]
        by_source = {name for name in settings if any(varies(o, name) for o in chosen)}
        sources, of_all = list(context.sources), granularity or Granularity()
        self._genes = GeneTable(settings, sources, context.layers, of_all, by_source)
        genes = [gene for table in self._genes.layout.values() for gene in table.values()]
        if len(self.operators) > 1:
            first = Parameter("operator", "choice", self.operators[0], choices=self.operators)
            genes.insert(0, first)
        self.parameters = (*genes, *self._order)
        if not self.parameters:
            raise ConfigError(
                Problem(("parameters",), "nothing varies.", "Give one of them low and high.")
            )

    def decode(self, genome: Genome) -> Recipe:
        """See `Space.decode`."""
        operator = self._operator(genome)
        parameters = {
            key: self._genes.setting(key, genome) if isinstance(setting, Range) else setting
            for key, setting in self._genes.settings.items()
            if key in operator.parameters
        }
        context = self.context
        if self._order and operator.ordered:
            context = replace(
                context, sources={s: context.sources[s] for s in self._ranked(genome)}
            )
        return context.recipe(operator.name, parameters)

    def _operator(self, genome: Genome) -> Operator:
        searched = len(self.operators) > 1
        return self._chosen[str(genome.genes["operator"]) if searched else self.operators[0]]

    def _ranked(self, genome: Genome) -> list[str]:
        """The sources in the order that a genome gives them."""
        keys = [float(genome.genes[gene.name]) for gene in self._order]
        ranked = sorted(zip(keys, self.context.sources, strict=True), key=lambda pair: pair[0])
        return [source for _, source in ranked]

    def encode(self, recipe: Recipe) -> Genome:
        """See `Space.encode`."""
        problems = of_other_models(recipe, self.context)
        problems += of_other_kind(recipe, ("slices", "scales", "modules", "segments", "lineage"))
        operator = self._chosen.get(recipe.operator)
        if operator is None:
            text = f"{recipe.operator}, and this space has {' or '.join(self.operators)}."
            problems.append(Problem(("operator",), text))
        genes = dict(self.initial().genes)
        # else one cannot say whose values are whose
        if operator is not None and recipe.sources.keys() == self.context.sources.keys():
            own, wrong = self._encoded(operator, recipe)
            genes |= own
            problems += wrong
        if problems:
            raise ConfigError(problems)
        return Genome(genes)

    def _encoded(self, operator: Operator, recipe: Recipe) -> tuple[dict[str, Gene], list[Problem]]:
        """The genes of a recipe over the sources of this space, and what none of them can give."""
        defaults = {name: bound.default for name, bound in operator.per_source.items()}
        known = {n: v for n, v in {**defaults, **operator.shared}.items() if v is not None}
        there = self.context.recipe(operator.name, {**known, **recipe.parameters})
        fixed = {n: s for n, s in self._genes.settings.items() if n in operator.parameters}
        here = self.context.recipe(
            operator.name,
            {**known, **{n: s for n, s in fixed.items() if n not in self._genes.layout}},
        )
        genes, problems = self._order_genes(operator, recipe)
        for name in there.parameters:
            if name in self._genes.layout:
                own, wrong = self._genes.genes(name, there)
                genes |= own
                problems += wrong
            elif there.parameters[name] != here.parameters.get(name):
                values = shown(there.parameters[name]), shown(here.parameters.get(name))
                problems.append(
                    Problem((name,), "{}, and in this space always {}.".format(*values))
                )
        if len(self.operators) > 1:
            genes["operator"] = operator.name
        return genes, problems

    def _order_genes(
        self, operator: Operator, recipe: Recipe
    ) -> tuple[dict[str, Gene], list[Problem]]:
        """The genes that sort the sources as a recipe does."""
        names = list(recipe.sources)
        if not operator.ordered or names == list(self.context.sources):
            return {}, []
        if not self._order:
            text = f"their order is {', '.join(names)}, and here {', '.join(self.context.sources)}."
            return {}, [Problem(("sources",), text)]
        return {f"order.{n}": (rank + 0.5) / len(names) for rank, n in enumerate(names)}, []

    def with_values(self, values: Mapping[str, Any]) -> Genome:
        """See `Space.with_values`."""
        chosen = values.get("operator", self.operators[0])
        if not isinstance(chosen, str) or chosen not in self._chosen:
            text = f"expected {' or '.join(self.operators)}, got {shown(chosen)}"
            raise ConfigError(Problem(("operator",), text))
        operator = self._chosen[chosen]
        own = {name: value for name, value in values.items() if name != "operator"}
        free = [name for name in self._genes.layout if name in operator.parameters]
        problems = [
            Problem(
                (name,), f"{operator.name} has none that varies here.", did_you_mean(name, free)
            )
            for name in own
            if name not in free
        ]
        if problems:
            raise ConfigError(problems)
        genes = dict(self.initial().genes)
        if len(self.operators) > 1:
            genes["operator"] = operator.name
        try:
            recipe = self.context.recipe(operator.name, own)
        except RecipeError as error:
            raise ConfigError([replace(one, file="") for one in error.details]) from None
        for name in own:
            found, wrong = self._genes.genes(name, recipe)
            genes |= found
            problems += wrong
        if problems:
            raise ConfigError(problems)
        return Genome(genes)

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """See `Space.starts`: usual weights of the sources, at what the operators' papers say."""
        first, sources = self.initial(), list(self.context.sources)
        lists = []
        for operator in self._chosen.values():
            known = operator_starts(operator, self._genes.settings, sources, best_first)
            started = [self._started(operator, label, settings) for label, settings in known]
            lists.append([self._started(operator, "initial", {}), *started])
            if self._order and operator.ordered:
                lists[-1] += self._orders([name for name in best_first if name in sources])
        found = [start for turn in zip_longest(*lists) for start in turn if start is not None]
        starts = {self._essence(first): Proposal("initial", first)}
        for start in found:
            starts.setdefault(self._essence(start.genome), start)
        return list(starts.values())

    def _started(self, operator: Operator, label: str, settings: Mapping[str, Any]) -> Proposal:
        """The initial genome with these settings, as far as bounds allow."""
        genes = dict(self.initial().genes)
        if len(self.operators) > 1:
            genes["operator"] = operator.name
            label = label if operator.name in label else f"{operator.name}, {label}"
        recipe = self.context.recipe(operator.name, settings)
        moved = False
        for name in settings:
            own, problems = self._genes.genes(name, recipe)
            genes |= own
            moved = moved or bool(problems)
        return Proposal(f"{label}, within the bounds" if moved else label, Genome(genes))

    def _orders(self, best_first: Sequence[str]) -> list[Proposal]:
        """The best source first, and last."""
        starts = []
        for label, names in (("best first", best_first), ("best last", best_first[::-1])):
            keys = {f"order.{n}": (rank + 0.5) / len(names) for rank, n in enumerate(names)}
            starts.append(Proposal(label, Genome({**self.initial().genes, **keys})))
        return starts

    def _essence(self, genome: Genome) -> str:
        """A text that is the same for genomes that say the same of a merge, but for rounding.

        Of weights that are averaged only the ratios count.
        """
        operator, settings = self._operator(genome), dict(self._genes.settings)
        values = {n: self._genes.values(n, genome) for n in self._genes.layout}
        known = {n: v for n, v in settings.items() if n not in values}
        known |= {n: next(iter(spots.values())) for n, spots in values.items()}
        ranked = self._ranked(genome) if self._order and operator.ordered else []
        said: list[Any] = [operator.name, ranked]
        for name in sorted(values.keys() & set(operator.parameters)):
            spots = values[name]
            if name == operator.weights in self._genes.by_source and operator.takes_average(known):
                spots = _shares(spots)
            said.append([f"{v:.9g}" if isinstance(v, float) else v for v in spots.values()])
        return repr(said)


def _shares(values: Mapping[Spot, Gene]) -> dict[Spot, Gene]:
    """Each source's share of the absolute values, place by place."""
    totals: dict[Spot, float] = {}
    for spot, value in values.items():
        place = spot._replace(source="")
        totals[place] = totals.get(place, 0.0) + abs(float(value))
    return {s: float(v) / (totals[s._replace(source="")] or 1.0) for s, v in values.items()}
