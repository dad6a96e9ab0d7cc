"""The open checkpoints of a merge, their tensors matched by name."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from evomerge.errors import PlanError
from evomerge.recipes import BASE, Recipe
from evomerge.weights.alignment import align, described, origins
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.checks.file_notes import file_notes
from evomerge.weights.checks.mismatches import notes
from evomerge.weights.files.headers import FLOATS
from evomerge.weights.files.model_files import require_unchanged
from evomerge.weights.slots import Slot, refill
from evomerge.weights.stacks.block_numbers import Origins
from evomerge.weights.tokens.tokenizers import chosen_template

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Input

Reference = str | Recipe  # a folder, a hub name, or a recipe in place of one
_COMPOSITION = (
    "base",
    "sources",
    "tokenizer",
    "slices",
    "modules",
    "chat_template",
    "allow_missing",
)


def key_of(reference: Reference) -> str:
    """A text that is the same for references to the same model."""
    return reference if isinstance(reference, str) else f"recipe {reference.digest}"


class Models:
    """A base and its sources.

    Args:
        recipe: which models they are, and how their tensors are matched.
        base, sources: the same models, open.

    Attributes:
        slots: every tensor of the merged model.
        vocabulary: of the merged model; None where rows are not aligned.
        chat_template: of the merged model; None where it is that of its tokenizer.
        untied: whether the merged model has a head of its own (rule R10).
        notes: sentences about what a user should know but need not change.
        known: by tensor name, measurements of the inputs that later candidates use again.

    Raises:
        PlanError: models that do not fit together, all mismatches at once.
    """

    def __init__(self, recipe: Recipe, base: Checkpoint, sources: Mapping[str, Checkpoint]) -> None:
        self._recipe = recipe
        self.base, self.sources = base, dict(sources)
        self._references = dict(recipe.sources)
        self.untied = any(not c.tied for c in self.members)
        found = align(recipe, self.base, self.sources, untied=self.untied)
        self.vocabulary, self.slots = found.vocabulary, found.slots
        folders = [member.folder for member in self.members]
        self.chat_template = chosen_template(recipe.chat_template, folders)
        self.known: dict[str, dict[Any, Any]] = {}
        self.notes = [*notes(self.base, self.sources, self.vocabulary), *found.lack_notes]
        owner = self.base if self.vocabulary is None else self.vocabulary.owner
        self.notes += [*file_notes(self.base, owner), *found.stack_notes]

    def of(self, recipe: Recipe) -> Models:
        """The models of one recipe of a search: only its sources, stacked as it says.

        Without another stack the merged model has the same tensors, see `select`.

        Raises:
            PlanError: models that are not among these, or do not fit together.
        """
        if not recipe.slices or recipe.slices == self._recipe.slices:
            return self.select(recipe.sources)
        return Models(recipe, self.base, self._renamed(self._origins(recipe.sources)))

    def select(self, sources: Mapping[str, Reference]) -> Models:
        """A view with only some of the sources, which fills the same tensors.

        The values are those of models opened with these sources alone, bit for bit. A vocabulary
        stays that of all sources: a ``union`` has the tokens of those that are left out, too.

        Args:
            sources: name to reference, each one of this base and these sources.

        Raises:
            PlanError: references that are neither.
        """
        if list(sources.items()) == list(self._references.items()):
            return self
        names = self._origins(sources)
        chosen = copy.copy(self)
        chosen.__dict__.pop("checkpoints", None)
        chosen.sources = self._renamed(names)
        chosen._references = dict(sources)
        all_tied = self.untied and all(c.tied for c in chosen.members)
        head = self.base.embedding if all_tied else None
        chosen.slots = refill(self.slots, names, head=head)
        return chosen

    def _origins(self, sources: Mapping[str, Reference]) -> dict[str, str | None]:
        """Name in a recipe to the source's name in these models; None for the base."""
        known: dict[str, str | None] = {key_of(self._recipe.base): None}
        known |= {key_of(model): name for name, model in self._references.items()}
        stray = [
            model if isinstance(model, str) else f"a recipe with {model.operator}"
            for model in sources.values()
            if key_of(model) not in known
        ]
        if stray:
            raise PlanError(
                f"not among the models of this search: {', '.join(stray)}. "
                "Add them to the search's sources."
            )
        return {name: known[key_of(model)] for name, model in sources.items()}

    def _renamed(self, names: Mapping[str, str | None]) -> dict[str, Checkpoint]:
        return {n: self.base if o is None else self.sources[o] for n, o in names.items()}

    @property
    def composition(self) -> Recipe:
        """What these models were opened from, as plain data from which others can open the same.

        It names those that `select` left out, too. Its operator and dtype mean nothing.
        """
        keys = {key: getattr(self._recipe, key) for key in _COMPOSITION}
        return Recipe.model_validate({**keys, "operator": "linear", "dtype": self.dtype})

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """Base and sources, each model once."""
        return tuple(dict.fromkeys((self.base, *self.sources.values())))

    @cached_property
    def checkpoints(self) -> dict[Path, Checkpoint]:
        """Every model that is read from disk, by folder; of a nested recipe, its models."""
        return {f: model for member in self.members for f, model in member.on_disk.items()}

    def require_unchanged(self) -> None:
        """Raise unless all files of all models are as they were when they were opened.

        Cheap where nothing has touched them: it asks the disk for sizes and times, not contents.

        Raises:
            SourceChangedError: names every file that is another one now.
            OSError: the disk cannot be read.
        """
        names = {model.folder: name for name, model in reversed(list(self._named.items()))}
        require_unchanged(
            f"{names[folder]}: {sentence}" if folder in names else sentence
            for folder, model in self.checkpoints.items()
            for sentence in model.changed_files()
        )

    @property
    def _named(self) -> dict[str, Checkpoint]:
        return {BASE: self.base, **self.sources}

    def owners(self, slot: Slot) -> Iterator[tuple[str, Checkpoint, str]]:
        """Every model that has the tensor, base first: its name, the model, its tensor's name."""
        if slot.base is not None:
            yield BASE, self.base, slot.base
        for source, tensor in slot.inputs.items():
            yield source, self.sources[source], tensor

    def non_finite_in(self, slot: Slot) -> list[str]:
        """A sentence for each file in which the tensor holds a NaN or an infinity."""
        found = (model.non_finite_in(tensor) for _, model, tensor in self.owners(slot))
        return list(dict.fromkeys(sentence for sentence in found if sentence is not None))

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
        axis = slot.token_axis
        if axis is None or self.vocabulary is None:
            return model.input(name)
        return self.vocabulary.align(model, model.read(name), axis, lambda: self._tables(slot))

    def _tables(self, slot: Slot) -> list[tuple[Checkpoint, Tensor]]:
        """The token tables of all models that have one, whether or not it is merged here."""
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
    def layers(self) -> int:
        """Blocks of the merged model."""
        return self.base.layers if self.origins is None else len(self.origins)

    @property
    def origins(self) -> list[tuple[Checkpoint, int]] | None:
        """For each block the model whose config describes it, and its number in that model.

        The first model that a slice names counts; None without slices.
        """
        return origins(self._recipe.slices, self._named)

    @property
    def blocks(self) -> Origins | None:
        """As `origins`, with no more of the models than their configs."""
        return described(self.origins)

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """The dtype of most of the base's tensors; float32 where recipes cannot have that one."""
        infos = self.base.tensors.values()
        counts = Counter(FLOATS[info.dtype] for info in infos if info.dtype in FLOATS)
        common = max(counts, key=counts.__getitem__, default="float32")
        known = common if common in ("bfloat16", "float16") else "float32"
        return cast(Literal["float32", "bfloat16", "float16"], known)
