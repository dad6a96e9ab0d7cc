"""The open checkpoints of a merge, lined up tensor by tensor."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Union, cast

from evomerge.errors import PlanError
from evomerge.recipes import Recipe, Tokenizer
from evomerge.weights import chat_templates
from evomerge.weights.adapters import Adapter
from evomerge.weights.block_numbers import displaced
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import FLOATS
from evomerge.weights.layer_types import spelled_out
from evomerge.weights.mismatches import (
    config_problems,
    notes,
    shape_problems,
    vocabulary_problems,
)
from evomerge.weights.slices import Slices, block_ranges, range_problems
from evomerge.weights.slots import Slot, align_tensors, keep_outside, module_problems, refill

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.lazy import LazyTensor
    from evomerge.weights.alignment import Vocabulary

__all__ = ["Input", "Models", "Slot"]

Input = Union["Tensor", "LazyTensor"]
Reference = str | Recipe  # a folder, a hub name, or a recipe in place of one
_COMPOSITION = ("base", "sources", "tokenizer", "slices", "modules", "chat_template")


def key_of(reference: Reference) -> str:
    """The same for references to the same model."""
    return reference if isinstance(reference, str) else f"recipe {reference.digest}"


def _label(reference: Reference) -> str:
    """What a message calls it."""
    return reference if isinstance(reference, str) else f"a recipe with {reference.operator}"


class Composition(Protocol):
    """What a `Recipe` says of its models: all but operator, settings and dtype."""

    @property
    def base(self) -> Reference: ...
    @property
    def sources(self) -> Mapping[str, Reference]: ...
    @property
    def tokenizer(self) -> str | Tokenizer | None: ...
    @property
    def slices(self) -> Slices: ...
    @property
    def modules(self) -> Sequence[str]: ...
    @property
    def chat_template(self) -> str | None: ...


class Models:
    """A base and its sources.

    Args:
        recipe: which models they are, and how they are lined up.
        base, sources: the same models, open.

    Attributes:
        slots: every tensor of the merged model.
        vocabulary: of the merged model; None where rows are not aligned.
        chat_template: of the merged model; None where it is that of its tokenizer.
        untied: whether the merged model has a head of its own (rule R10).
        notes: what a person should know though it is no error.
        known: tensor name to what has been measured of the inputs, for all candidates to come.

    Raises:
        PlanError: models that do not fit together, all mismatches at once.
    """

    def __init__(
        self, recipe: Composition, base: Checkpoint, sources: Mapping[str, Checkpoint]
    ) -> None:
        self._recipe = recipe
        self.base, self.sources = base, dict(sources)
        self._references = dict(recipe.sources)
        self._slices = tuple(recipe.slices)
        self.untied = any(not c.tied for c in self.members)
        self.vocabulary, self.slots = self._align(recipe.tokenizer, recipe.modules)
        folders = [member.folder for member in self.members]
        self.chat_template = chat_templates.chosen(recipe.chat_template, folders)
        self.known: dict[str, dict[Any, Any]] = {}
        # a block that is stacked and not merged is whole, whichever other models lack it
        told = tuple(s for s in self.slots if s.place.layer is None or not self._stacked)
        self.notes = list(notes(self.base, self.sources, told, self.vocabulary))
        adapters = ((n, m) for n, m in self.sources.items() if isinstance(m, Adapter))
        self.notes += [f"{name}: {note}" for name, m in adapters if (note := m.note)]

    def _align(
        self, tokenizer: str | Tokenizer | None, modules: Sequence[str]
    ) -> tuple[Vocabulary | None, tuple[Slot, ...]]:
        base, sources = self.base, self.sources
        problems = [
            *config_problems(base, sources, sliced=bool(self._slices), stacked=self._stacked),
            *vocabulary_problems(base, sources, aligns=tokenizer is not None),
        ]
        vocabulary, rows = None, None
        try:
            vocabulary = _settled(base, sources, tokenizer)
            rows = None if vocabulary is None else vocabulary.padded_rows
        except PlanError as error:
            problems += error.problems
            rows = 0  # rows are matched, though to none that exist
        wrong = list(range_problems(self._slices, base, sources))
        if wrong:
            raise PlanError([*problems, *wrong])
        problems += displaced((spelled_out(m.config), own) for m, own in self.origins or ())
        slots = align_tensors(base, sources, self._slices, untied=self.untied, rows=rows)
        problems += module_problems(slots, modules)
        slots = keep_outside(slots, modules)
        problems += shape_problems(slots, base, sources, vocabulary, aligns=tokenizer is not None)
        if problems:
            raise PlanError(problems)
        return vocabulary, slots

    def of(self, recipe: Composition) -> Models:
        """The models of one recipe of a search: its sources alone, stacked as it says.

        A recipe that stacks nothing anew fills the same tensors, see `select`.

        Raises:
            PlanError: models that are not among these, or do not fit together.
        """
        if not recipe.slices or tuple(recipe.slices) == self._slices:
            return self.select(recipe.sources)
        return Models(recipe, self.base, self._chosen(recipe.sources))

    def select(self, sources: Mapping[str, Reference]) -> Models:
        """The same models with only these sources, filling the same tensors.

        The values are those of models opened with these sources alone, bit for bit. A vocabulary
        stays that of all sources: a ``union`` has the tokens of those that are left out, too.

        Args:
            sources: name to reference, each one of this base and these sources.

        Raises:
            PlanError: references that are neither.
        """
        if list(sources.items()) == list(self._references.items()):
            return self
        chosen = copy.copy(self)
        chosen.__dict__.pop("checkpoints", None)
        chosen.sources = self._chosen(sources)
        chosen._references = dict(sources)
        all_tied = self.untied and all(c.tied for c in chosen.members)
        head = self.base.embedding if all_tied else None
        origin = {name: self._origins[key_of(model)] for name, model in sources.items()}
        chosen.slots = refill(self.slots, origin, head=head)
        return chosen

    @property
    def _origins(self) -> dict[str, str | None]:
        """Key of a model to the source that it is, None for the base."""
        of_sources = {key_of(model): name for name, model in self._references.items()}
        return {key_of(self._recipe.base): None, **of_sources}

    def _chosen(self, sources: Mapping[str, Reference]) -> dict[str, Checkpoint]:
        """Name to model, each one of this base and these sources."""
        origins = self._origins
        stray = [_label(model) for model in sources.values() if key_of(model) not in origins]
        if stray:
            raise PlanError(
                f"not among the models of this search: {', '.join(stray)}. "
                "Add them to the search's sources."
            )
        found = {name: origins[key_of(model)] for name, model in sources.items()}
        return {n: self.base if o is None else self.sources[o] for n, o in found.items()}

    @property
    def composition(self) -> Recipe:
        """What these models were opened from, as plain data that opens the same elsewhere.

        Those that `select` leaves out are named, too. Operator and dtype mean nothing.
        """
        keys = {key: getattr(self._recipe, key) for key in _COMPOSITION}
        return Recipe.model_validate({**keys, "operator": "linear", "dtype": self.dtype})

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """Base and sources, each model once."""
        return tuple(dict.fromkeys((self.base, *self.sources.values())))

    @cached_property
    def checkpoints(self) -> dict[Path, Checkpoint]:
        """Every model on disk that is read, by folder; of a recipe in place of one, its models."""
        return {f: model for member in self.members for f, model in member.on_disk.items()}

    def base_input(self, slot: Slot) -> Input | None:
        """The base's values of a tensor, of the slot's shape; None where it has none.

        Raises:
            CheckpointError: the file can no longer be read.
        """
        return None if slot.base is None else self._input(slot, self.base, slot.base)

    def input(self, slot: Slot, source: str) -> Input:
        """A source's values of a tensor that it has, of the slot's shape.

        Raises:
            CheckpointError: the file can no longer be read.
        """
        return self._input(slot, self.sources[source], slot.inputs[source])

    def _input(self, slot: Slot, model: Checkpoint, name: str) -> Input:
        if not slot.aligned or self.vocabulary is None:
            return model.input(name)
        return self.vocabulary.align(model, model.read(name), lambda: self._tables(slot))

    def _tables(self, slot: Slot) -> list[tuple[Checkpoint, Tensor]]:
        """Every model that has a table of token rows, whether or not it is merged here."""
        assert self.vocabulary is not None
        found = []
        for model in self.vocabulary.models:
            name: str | None = slot.name if slot.name in model.tensors else None
            if name is None and slot.place.role == "head" and model.tied and len(slot.shape) == 2:
                name = model.embedding
            if name is not None:
                found.append((model, model.read(name)))
        return found

    @property
    def _stacked(self) -> set[str]:
        """The models of which blocks are taken whole; none where blocks of several are merged."""
        alone = all(len(slice_) == 1 for slice_ in self._slices)
        return {name for slice_ in self._slices for name in slice_} if alone else set()

    @property
    def layers(self) -> int:
        """Blocks of the merged model."""
        part = block_ranges(None, self._slices)
        return self.base.layers if part is None else sum(part.lengths)

    @property
    def origins(self) -> list[tuple[Checkpoint, int]] | None:
        """For each block, the model whose config speaks for it and the block there.

        That is the base where its blocks are named, else the first source; None without slices.
        """
        if not self._slices:
            return None
        known = {"base": self.base, **self.sources}
        named = [next(iter(slice_.items())) for slice_ in self._slices]
        return [(known[name], block) for name, (start, end) in named for block in range(start, end)]

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """What most of the base's tensors are stored in; float32 where merges cannot be."""
        infos = self.base.tensors.values()
        counts = Counter(FLOATS[info.dtype] for info in infos if info.dtype in FLOATS)
        common = max(counts, key=counts.__getitem__, default="float32")
        known = common if common in ("bfloat16", "float16") else "float32"
        return cast(Literal["float32", "bfloat16", "float16"], known)


def _settled(
    base: Checkpoint, sources: Mapping[str, Checkpoint], tokenizer: str | Tokenizer | None
) -> Vocabulary | None:
    if tokenizer is None:
        return None
    from evomerge.weights.alignment import settle  # which works on tensors of row numbers

    return settle(base, sources, tokenizer)
