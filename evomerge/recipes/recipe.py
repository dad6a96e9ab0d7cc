"""The recipe of one merged model: a few kilobytes that say everything about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from evomerge.errors import WrongValuesError, shown
from evomerge.keys import Keys
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes._segments import Lineage, Segments, lineage_problems, segment_problems
from evomerge.recipes._settings import ROLES, Scalar, canonical_settings, find, rows
from evomerge.recipes._stack import (
    Slice,
    canonical_slices,
    scale_problems,
    slice_lengths,
    slice_problems,
)
from evomerge.recipes._tokenizer import (
    Tokenizer,
    canonical_tokenizer,
    template_problems,
    tokenizer_problems,
)

# Not hashed at their defaults, so that recipes from before they existed keep their digests.
_LATER = (
    *("slices", "scales", "modules", "allow_missing", "statistics"),
    *("chat_template", "experimental", "segments", "lineage"),
)


class Recipe(Keys):
    """One merged model, completely: which models, merged by which operator, at which settings.

    Plain data in one canonical form: no model is opened or downloaded before `evomerge.build` or an
    engine needs its weights, and recipes with the same `digest` build the same bytes.

    >>> recipe = Recipe(
    ...     base="org/base",
    ...     sources={"math": "org/math", "code": "org/code"},
    ...     operator="ties",
    ...     parameters={"density": 0.3, "weight": {"math": 0.6, "code": {"mlp": 0.2, "other": 1}}},
    ...     dtype="bfloat16",
    ... )
    >>> recipe.parameters["weight"]["code"]
    {'mlp': 0.2, 'other': 1.0}

    A setting in ``parameters`` is one of

    - a scalar: a number, a word or a flag;
    - a list with one scalar for each output block, of which the tensors outside the blocks
      (embeddings, final norm, head) take the first, as in mergekit;
    - a mapping from roles to either; ``other`` stands for every role of `ROLES` not named;
    - a list of mappings ``{filter, value}``: the first counts whose filter is a part of the output
      tensor's name, and one without a filter is for all tensors;
    - a mapping from source names to any of these, so that each source has its own.

    Attributes:
        base: the model that task vectors are measured from; gives config and tokenizer. A folder,
            ``org/name[@revision]``, or a recipe, which stands for the checkpoint built from it.
        sources: name to model, each as ``base`` or an adapter on it; at least one.
        operator: a name from ``evomerge list operators``.
        parameters: of the operator and its modifiers, name to setting.
        slices: for each run of output blocks, which blocks ``[start, end)`` of which sources (and
            of ``base``) are merged; () if each output block is merged from those of its number.
        scales: for each output block the factor on the residual stream on its way into it, of
            either sign, magnitude in [1e-4, 1e4]; () for 1 throughout. Folded into the weights.
        modules: prefixes of the names of the tensors to merge, the others are the base's; () for
            all.
        allow_missing: patterns (``*``, ``?``, ``[...]``) of the names of tensors that models may
            lack; who lacks one takes no part in it. () refuses models that do.
        statistics: source name to a folder made by ``evomerge statistics``.
        seed: of the operator's random numbers, 0 or more.
        dtype: of the written weights; all arithmetic is float32.
        tokenizer: ``base``, ``union`` or the name of a source, to whose vocabulary the others are
            aligned through token strings; None matches rows by number, and refuses to mix tokens.
        chat_template: a known name, a Jinja text, or ``auto`` for the one that most models have;
            None for the base's.
        experimental: True allows operators whose published equations could not be checked.
        segments: for the operator `segments`: weights that change along the model's elements.
        lineage: for the operator `segments`, in place of ``segments``: the steps by which children
            were bred and mutated.
    """

    base: str | Recipe
    sources: dict[str, str | Recipe] = Field(min_length=1)
    operator: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    scales: tuple[Annotated[float, Field(strict=True)], ...] = ()
    modules: tuple[str, ...] = ()
    allow_missing: tuple[str, ...] = ()
    statistics: dict[str, str] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"]
    tokenizer: str | Tokenizer | None = None
    chat_template: str | None = None
    experimental: bool = False
    segments: Segments | None = None
    lineage: Lineage | None = None

    @field_validator("sources")
    @classmethod
    def _no_source_is_called_as_a_role(
        cls, sources: dict[str, str | Recipe]
    ) -> dict[str, str | Recipe]:
        problems = [
            f"a source may not be called {shown(name)}: that is a role"
            for name in sources
            if name in ROLES
        ]
        if problems:
            raise WrongValuesError(*problems)
        return sources

    @model_validator(mode="after")
    def _canonical(self) -> Recipe:
        settings, problems = canonical_settings(self.parameters, self.sources)
        problems += slice_problems(self.slices, self.sources, self.base)
        problems += scale_problems(self.scales, self.depth)
        problems += tokenizer_problems(self.tokenizer, self.sources)
        problems += template_problems(self.chat_template)
        problems += segment_problems(self.segments, self.sources)
        problems += lineage_problems(self.lineage, self.sources)
        if self.segments is not None and self.lineage is not None:
            problems.append("lineage: stands in place of segments. Remove one of them")
        problems += [
            f"modules: expected a prefix, got {shown(m)}" for m in self.modules if not _bare(m)
        ]
        problems += [
            f"allow_missing: expected a pattern, got {pattern!r}"
            for pattern in self.allow_missing
            if not pattern.strip()
        ]
        problems += [
            f"statistics.{name}: no such source.{did_you_mean(name, self.sources)}"
            for name in self.statistics
            if name not in self.sources
        ]
        if problems:
            raise WrongValuesError(*problems)
        changed = {
            "parameters": settings,
            "slices": canonical_slices(self.slices, self.sources),
            "scales": () if all(scale == 1 for scale in self.scales) else self.scales,
            "modules": _outermost(self.modules),
            "allow_missing": tuple(sorted(set(self.allow_missing))),
            "tokenizer": canonical_tokenizer(self.tokenizer),
            "chat_template": self.chat_template or None,
        }
        for name, value in changed.items():
            object.__setattr__(self, name, value)
        return self

    @property
    def depth(self) -> int | None:
        """The number of output blocks; None without slices, where it is that of the base."""
        return sum(slice_lengths(self.slices)) or None

    def setting(
        self, name: str, source: str | None, role: str, layer: int, tensor: str
    ) -> Scalar | None:
        """The value of one parameter for one tensor, or None where the recipe gives none.

        Args:
            name: of the parameter.
            source: which source's value, or None for a parameter that all sources share.
            role: one of `ROLES`.
            layer: index of the output block, 0 for tensors outside the blocks.
            tensor: name of the output tensor.

        Raises:
            IndexError: the list of values is shorter than the model.
        """
        return find(self.parameters.get(name), source, role, layer, tensor)

    def lists(self) -> list[tuple[str, int]]:
        """The path of every list of values by block, and how many values it has."""
        return [item for name, setting in self.parameters.items() for item in rows(name, setting)]

    def leaves(self) -> Iterator[str]:
        """Every model that the recipe merges, also inside nested recipes; some more than once."""
        for model in (self.base, *self.sources.values()):
            yield from (model,) if isinstance(model, str) else model.leaves()

    def located(self, locate: Callable[[str], str]) -> Recipe:
        """A copy with ``locate`` applied to all references to models and statistics."""

        def place(model: str | Recipe) -> str | Recipe:
            return locate(model) if isinstance(model, str) else model.located(locate)

        return self.model_copy(
            update={
                "base": place(self.base),
                "sources": {name: place(model) for name, model in self.sources.items()},
                "statistics": {name: locate(folder) for name, folder in self.statistics.items()},
            }
        )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other fields, which are not validated; its digest is its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    def canonical_json(self) -> str:
        """One text per recipe: sorted keys, no spaces, sources in order."""
        return json.dumps(_content(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def digest(self) -> str:
        """sha256 of `canonical_json`, in hex: the recipe's identity."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @classmethod
    def from_canonical_json(cls, text: str) -> Recipe:
        """Inverse of `canonical_json`."""
        return cls.model_validate(_ordered(json.loads(text)))


def _content(recipe: Recipe) -> dict[str, Any]:
    """Keys and values of a recipe as its digest hashes them."""
    content = recipe.model_dump()
    for name in _LATER:
        if content[name] == Recipe.model_fields[name].default or content[name] == {}:
            del content[name]

    def model(value: str | Recipe) -> Any:
        return value if isinstance(value, str) else _content(value)

    content["base"] = model(recipe.base)
    content["sources"] = [[name, model(value)] for name, value in recipe.sources.items()]
    if isinstance(recipe.tokenizer, Tokenizer):
        # pairs keep their order, in which rows are added
        content["tokenizer"]["tokens"] = [list(i) for i in content["tokenizer"]["tokens"].items()]
    return content


def _ordered(content: Any) -> Any:
    """The keys of a recipe from its `_content`."""
    if not isinstance(content, dict):
        return content
    sources = {name: _ordered(value) for name, value in content["sources"]}
    content |= {"base": _ordered(content["base"]), "sources": sources}
    if isinstance(content["tokenizer"], dict):
        content["tokenizer"]["tokens"] = dict(content["tokenizer"]["tokens"])
    return content


def _bare(prefix: str) -> str:
    return prefix.strip().rstrip(".")


def _outermost(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """The prefixes without those that lie inside another, sorted."""
    bare = {_bare(prefix) for prefix in prefixes}
    inner = {one for one in bare for other in bare if one.startswith(f"{other}.")}
    return tuple(sorted(bare - inner))
