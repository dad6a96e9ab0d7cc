"""What may vary: spaces turn a genome into a recipe, one kind of space per file.

The file's name is the ``kind`` of a space YAML; the keyword-only arguments of the constructor are
its other keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationError

from evomerge.errors import ConfigError, RecipeError
from evomerge.plugins.registry import explain
from evomerge.recipes import Lineage, Recipe
from evomerge.types import Genome, Parameter, PrefixGram, Proposal

if TYPE_CHECKING:
    from evomerge.weights.models import Models


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchContext:
    """What every recipe of a search has in common.

    Attributes:
        base, sources, dtype, tokenizer, seed, experimental, allow_missing: as in `Recipe`; a
            source is a recipe where it is the winner of an earlier stage.
        statistics: source name to a folder, for the operators that need statistics.
        layers: blocks of the base.
        models: base and sources, open; None where they cannot be opened. Spaces that look at
            tensors need them.
    """

    base: str | Recipe
    sources: Mapping[str, str | Recipe]
    layers: int
    dtype: str
    tokenizer: str | None = None
    seed: int = 0
    statistics: Mapping[str, str] = field(default_factory=dict)
    experimental: bool = False
    allow_missing: tuple[str, ...] = ()
    models: Models | None = field(default=None, compare=False, repr=False)

    @property
    def mixed(self) -> bool:
        """Whether some source differs from the base in its number of blocks: stacks may use it."""
        models = self.models
        return models is not None and any(
            source.layers != models.base.layers for source in models.sources.values()
        )

    def recipe(
        self,
        operator: str,
        parameters: Mapping[str, object] | None = None,
        segments: Mapping[str, object] | None = None,
        stack: Mapping[str, object] | None = None,
        lineage: Lineage | None = None,
    ) -> Recipe:
        """A recipe over all sources.

        Args:
            operator, parameters, segments, lineage: as in `Recipe`.
            stack: its slices and scales.

        Raises:
            RecipeError: values that no recipe can hold, all at once.
        """
        content: dict[str, Any] = {
            "base": self.base,
            "sources": dict(self.sources),
            "operator": operator,
            "parameters": dict(parameters or {}),
            "seed": self.seed,
            "dtype": self.dtype,
            "tokenizer": self.tokenizer,
            "experimental": self.experimental,
            "allow_missing": self.allow_missing,
            **(stack or {}),
        }
        from evomerge.operators import get  # imports torch, which `lineage` does without

        if get(operator).statistics is not None:
            known = self.statistics
            content["statistics"] = {name: known[name] for name in self.sources if name in known}
        if segments is not None:
            content["segments"] = segments
        if lineage is not None:
            content["lineage"] = lineage
        try:
            return Recipe.model_validate(content)
        except ValidationError as error:
            raise RecipeError(explain(error, Recipe, file="recipe")) from None


class Space(ABC):
    """The set of recipes that a search may propose.

    Attributes:
        parameters: (D,) what varies; an optimizer sees nothing else.
        operators: names of the operators that its recipes may use.
        needs_parents: whether its candidates have parents, so that the optimizer must name them.
        stacks_only: whether its recipes stack blocks and merge none, so that the sources may have
            any number of them.
    """

    needs_parents: ClassVar[bool] = False
    stacks_only: ClassVar[bool] = False
    parameters: tuple[Parameter, ...]
    operators: tuple[str, ...]

    @abstractmethod
    def decode(self, genome: Genome) -> Recipe:
        """The recipe of a genome; the same genome always gives the same recipe."""

    def child(self, genome: Genome, parents: Sequence[Genome]) -> Genome:
        """The genome of a candidate with parents, completed: `decode` takes it, and it is recorded.

        Args:
            genome: as the optimizer proposes it.
            parents: completed, in the order of ``genome.parents``.
        """
        return genome

    def load_grams(self, measured: Sequence[PrefixGram]) -> None:  # noqa: B027 - most spaces measure nothing
        """Reuse inner products that an earlier session measured on these same sources."""

    def new_grams(self) -> list[PrefixGram]:
        """Inner products of the sources that were measured since the last call."""
        return []

    def initial(self) -> Genome:
        """The genome that a search starts from, if it knows no better one."""
        return Genome({p.name: p.initial for p in self.parameters})

    def encode(self, recipe: Recipe) -> Genome:
        """The genome that gives a recipe: the inverse of `decode`.

        Seed, dtype and tokenizer of the recipe do not count: they are the search's.

        Raises:
            ConfigError: all that no genome of this space gives.
        """
        raise ConfigError("this space cannot turn a recipe back into a genome")

    def with_values(self, values: Mapping[str, Any]) -> Genome:
        """The initial genome with other values of some parameters.

        Args:
            values: name to a setting as in a recipe, and ``operator`` to a name.

        Raises:
            ConfigError: parameters that do not vary, and values that no genome gives.
        """
        raise ConfigError("this space has no parameters of operators")

    def starts(self, best_first: Sequence[str] = ()) -> list[Proposal]:
        """Genomes of which one may be a good start, the most promising first.

        Args:
            best_first: names of sources, by how they did alone.
        """
        return [Proposal("initial", self.initial())]

    def largest(self) -> Recipe | None:
        """The recipe of the deepest model that the space may propose, with all models that it uses.

        None where every recipe has as many blocks as the base.
        """
        return None

    def representative(self) -> Genome:
        """A completed genome whose candidate takes as long as most: `initial`, as a rule."""
        return self.initial()
