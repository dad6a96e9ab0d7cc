"""The parameter space: which operator, at which settings, per source, layer and role.

Source: Akiba et al. 2024, arXiv:2403.13187, section 3.1 (merging in the parameter space).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pydantic import ValidationError

from evomerge.errors import ConfigError, Problem, shown
from evomerge.keys import is_computable
from evomerge.operators import Operator, get
from evomerge.plugins.registry import did_you_mean, explain
from evomerge.recipes import ROLES, Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces._parameter_range import Granularity, Range, softmax
from evomerge.spaces._starts import source_weights
from evomerge.types import Gene, Genome, Parameter, Proposal

__all__ = ["Granularity", "ParameterSpace", "Range"]


class _Spot(NamedTuple):
    """A place at which a gene sets a value; an empty source or role stands for all."""

    source: str
    role: str
    group: int


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
        self._settings, problems = _settings(parameters or {}, context.sources)
        chosen, wrong = _chosen(self.operators)
        problems += wrong
        if chosen and not wrong:
            problems += _domain_problems(self._settings, chosen)
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
        self._layout = {
            name: {
                spot: replace(setting.parameter(label), group=f"{name}.{spot.source}")
                for spot, label in self._genes(name, setting)
            }
            for name, setting in self._settings.items()
            if isinstance(setting, Range)
        }
        genes = [gene for table in self._layout.values() for gene in table.values()]
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
        name = str(genome.genes["operator"]) if len(self.operators) > 1 else self.operators[0]
        operator = self._chosen[name]
        parameters = {
            key: self._table(key, setting, genome) if isinstance(setting, Range) else setting
            for key, setting in self._settings.items()
            if key in operator.parameters
        }
        context = self.context
        if self._order and operator.ordered:
            keys = [float(genome.genes[gene.name]) for gene in self._order]
            ranked = sorted(zip(keys, context.sources, strict=True), key=lambda pair: pair[0])
            context = replace(context, sources={s: context.sources[s] for _, s in ranked})
        return context.recipe(name, parameters)

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """See `Space.starts`: usual weights of the sources, and what the operators' papers say."""
        weights = self._settings.get("weight")
        known = {"initial": self.initial()}
        for operator in self._chosen.values():
            known[f"{operator.name}, paper's defaults"] = self._with_defaults(operator)
        if isinstance(weights, Range) and any(_varies(o, "weight") for o in self._chosen.values()):
            for label, of_sources in source_weights(list(self.context.sources), best_first):
                genes = self._with_weights(weights, of_sources)
                known[label] = Genome({**self.initial().genes, **genes})
        starts: list[Proposal] = []
        for label, genome in known.items():
            if all(genome != start.genome for start in starts):
                starts.append(Proposal(label, genome))
        return starts

    def _with_weights(self, span: Range, of_sources: Mapping[str, float]) -> dict[str, Gene]:
        """The genes of ``weight`` at which every source has this value, as far as bounds allow."""
        first = of_sources[next(iter(self.context.sources))]
        return {
            gene.name: span.gene(of_sources[spot.source], relative_to=first)
            for spot, gene in self._layout["weight"].items()
        }

    def _with_defaults(self, operator: Operator) -> Genome:
        """The initial genome with the values of an operator's paper where it names some."""
        genes = dict(self.initial().genes)
        if len(self.operators) > 1:
            genes["operator"] = operator.name
        for name, table in self._layout.items():
            value, span = operator.paper_defaults.get(name), self._settings[name]
            if isinstance(value, bool | int | float | str) and not span.simplex:
                genes |= {gene.name: span.gene(value) for gene in table.values()}
        return Genome(genes)

    def _spots(self, name: str, span: Range) -> Iterator[_Spot]:
        """Every place at which a parameter has a value of its own."""
        granularity = span.granularity or self._granularity
        per_source = any(_varies(o, name) for o in self._chosen.values())
        for source in self.context.sources if per_source else ("",):
            for role in granularity.roles or ("",):
                for group in range(granularity.groups(self.context.layers)):
                    yield _Spot(source, role, group)

    def _genes(self, name: str, span: Range) -> Iterator[tuple[_Spot, str]]:
        """The places that have a gene, each with the gene's name."""
        groups = (span.granularity or self._granularity).groups(self.context.layers)
        first = next(iter(self.context.sources))
        for spot in self._spots(name, span):
            if not (span.simplex and spot.source == first):
                group = str(spot.group) if groups > 1 else ""
                parts = [name, spot.source, spot.role, group]
                yield spot, ".".join(part for part in parts if part)

    def _values(self, name: str, span: Range, genome: Genome) -> dict[_Spot, Gene]:
        """The parameter's value at every place."""
        genes = {spot: genome.genes[gene.name] for spot, gene in self._layout[name].items()}
        if not span.simplex:
            return {spot: span.value(gene) for spot, gene in genes.items()}
        values: dict[_Spot, Gene] = {}
        sources = list(self.context.sources)
        for spot in self._spots(name, span):
            logits = [float(genes.get(spot._replace(source=s), 0.0)) for s in sources]
            values[spot] = softmax(logits)[sources.index(spot.source)]
        return values

    def _table(self, name: str, span: Range, genome: Genome) -> Any:
        """The parameter's setting in a recipe, from the genes."""
        layers = self.context.layers
        values = self._values(name, span, genome)
        groups = 1 + max(spot.group for spot in values)
        setting: dict[str, dict[str, list[Any]]] = {}
        for spot, value in values.items():
            row = setting.setdefault(spot.source, {}).setdefault(spot.role, [None] * layers)
            for layer in range(layers):
                if layer * groups // layers == spot.group:
                    row[layer] = value
        by_source = {source: by_role.get("", by_role) for source, by_role in setting.items()}
        return by_source.get("", by_source)


def _chosen(names: Collection[str]) -> tuple[list[Operator], list[Problem]]:
    """The operators of these names, and what is wrong with the names."""
    chosen: list[Operator] = []
    problems: list[Problem] = []
    counts = {name: list(names).count(name) for name in names}
    for name, count in counts.items():
        if count > 1:
            problems.append(Problem(("operator",), f"{name} is named twice"))
        try:
            chosen.append(get(name))
        except ConfigError as error:
            problems += [problem.under("operator") for problem in error.details]
    if not names:
        problems.append(Problem(("operator",), "name at least one"))
    return chosen, problems


def _settings(
    parameters: Mapping[str, Any], sources: Collection[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """Ranges parsed, fixed settings as they are, and what is wrong."""
    settings: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in parameters.items():
        path = ("parameters", name)
        if not isinstance(value, Mapping) or _is_table(value, sources):
            settings[name] = value
            problems += [
                Problem(path, f"expected a finite number, got {shown(leaf)}")
                for leaf in _leaves(value)
                if isinstance(leaf, int | float) and not is_computable(leaf)
            ]
            continue
        try:
            span = Range.model_validate(value).of(len(sources))
        except ValidationError as error:
            problems += explain(error, Range, *path)
            continue
        problems += [Problem(path, text) for text in span.problems()]
        settings[name] = span
    return settings, problems


def _is_table(value: Mapping[str, Any], sources: Collection[str]) -> bool:
    """Whether a mapping gives values to sources or roles rather than bounds."""
    return not value.keys() & Range.model_fields.keys() and any(
        key in sources or key in ROLES for key in value
    )


def _domain_problems(settings: Mapping[str, Any], operators: list[Operator]) -> list[Problem]:
    """Parameters that no operator has, and bounds that an operator refuses."""
    problems: list[Problem] = []
    for name, setting in settings.items():
        path = ("parameters", name)
        owners = [o for o in operators if name in o.parameters]
        if not owners:
            known = dict.fromkeys(key for o in operators for key in o.parameters)
            label = " or ".join(o.name for o in operators)
            text = f"{label} has no such parameter."
            problems.append(Problem(path, text, did_you_mean(name, known)))
        simplex = isinstance(setting, Range) and setting.simplex
        problems += [
            Problem(path, f"{owner.name} has one value for all sources.", "Remove simplex")
            for owner in owners
            if simplex and not _varies(owner, name)
        ]
        values = setting.extremes() if isinstance(setting, Range) else _leaves(setting)
        # `_settings` has reported infinite numbers
        finite = [v for v in values if not isinstance(v, int | float) or is_computable(v)]
        for owner in owners:
            for value in finite:
                problems += [Problem(path, text) for text in _refusals(owner, name, value)]
    return list(dict.fromkeys(problems))


def _varies(operator: Operator, name: str) -> bool:
    """Whether each source has a gene of its own for a parameter."""
    bound = operator.per_source.get(name)
    return bound is not None and not bound.together


def _leaves(setting: Any) -> list[Any]:
    """Every value inside a fixed setting."""
    if isinstance(setting, Mapping):
        return [leaf for inner in setting.values() for leaf in _leaves(inner)]
    if isinstance(setting, (list, tuple)):
        return [leaf for inner in setting for leaf in _leaves(inner)]
    return [setting]


def _refusals(operator: Operator, name: str, value: Any) -> list[str]:
    if name in operator.per_source:
        problem = operator.per_source[name].problem(value)
        return [f"{operator.name}: {problem}"] if problem else []
    try:
        operator.validate_shared({name: value})
    except ConfigError as error:
        return [f"{operator.name}: {problem.text}" for problem in error.details]
    return []
