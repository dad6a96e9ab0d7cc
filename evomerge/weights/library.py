"""Opens the models of recipes: checkpoints, adapters, and recipes in place of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError, InputError, PlanError
from evomerge.recipes import Recipe, Tokenizer
from evomerge.recipes.files import RecipeReader
from evomerge.recipes.mergekit import Note, ignore
from evomerge.recipes.references import anchor, resolve
from evomerge.recipes.scored import Scored
from evomerge.weights.adapters.adapter import Adapter
from evomerge.weights.checkpoint import Checkpoint, holds_adapter
from evomerge.weights.layouts.key_layouts import KeyLayout
from evomerge.weights.models import Models, Reference, key_of
from evomerge.weights.slots import Slices
from evomerge.weights.virtual import VirtualCheckpoint

if TYPE_CHECKING:
    from evomerge.weights.plan import Plan


class Library:
    """Opens models, each once, however many recipes name it; nothing of their weights is read."""

    def __init__(self) -> None:
        self._opened: dict[str, Checkpoint] = {}
        self._layouts: dict[Checkpoint, KeyLayout] = {}
        self._views: dict[tuple[Checkpoint, Checkpoint], Checkpoint] = {}

    def plan(self, recipe: Recipe) -> Plan:
        """The plan of a recipe; `make_plan` plans one for models that are open already.

        Raises:
            CheckpointError: models that cannot be opened, all at once.
            PlanError, ConfigError: models that do not fit together, settings that are wrong.
        """
        from evomerge.operators import get
        from evomerge.weights.plan import make_plan  # which imports NumPy, as models need not

        get(recipe.operator)  # a wrong name is reported before a model is downloaded
        return make_plan(recipe, self.models(recipe))

    def models(self, recipe: Recipe) -> Models:
        """The open models of a recipe, their tensors matched by name.

        Raises:
            CheckpointError: models that cannot be opened, all at once.
            PlanError: models that do not fit together, all mismatches at once.
        """
        checkpoints = self._open_all(recipe.base, recipe.sources, recipe.allow_missing)
        sources = {name: checkpoints[key_of(model)] for name, model in recipe.sources.items()}
        return Models(recipe, checkpoints[key_of(recipe.base)], sources)

    def open(
        self,
        base: Reference,
        sources: Mapping[str, Reference],
        tokenizer: str | Tokenizer | None = None,
        slices: Slices = (),
        allow_missing: Sequence[str] = (),
    ) -> Models:
        """A base and its sources.

        Args:
            base: a folder, a hub name, or a recipe in place of one.
            sources: name to a folder, a hub name or a recipe.
            tokenizer, slices, allow_missing: as in `Recipe`.

        Raises:
            CheckpointError, PlanError: as `models`.
        """
        recipe = Recipe.model_construct(
            base=base,
            sources=dict(sources),
            tokenizer=tokenizer,
            slices=tuple(slices),
            allow_missing=tuple(allow_missing),
            operator="linear",
            dtype="float32",
        )
        return self.models(recipe)

    def side_by_side(
        self,
        base: Reference,
        sources: Mapping[str, Reference],
        tokenizer: str | Tokenizer | None = None,
        allow_missing: Sequence[str] = (),
    ) -> Models:
        """Open models that are stacked, not merged, and so may differ in depth; see `open`.

        Where they do, all blocks of all sources are stacked one after the other.

        Raises:
            CheckpointError, PlanError: as `models`.
        """
        checkpoints = self._open_all(base, sources, allow_missing)
        layers = {name: checkpoints[key_of(model)].layers for name, model in sources.items()}
        same = set(layers.values()) <= {checkpoints[key_of(base)].layers}
        slices = () if same else [{name: (0, count)} for name, count in layers.items() if count]
        return self.open(base, sources, tokenizer, slices, allow_missing)

    def _open_all(
        self, base: Reference, sources: Mapping[str, Reference], allow_missing: Sequence[str]
    ) -> dict[str, Checkpoint]:
        found: dict[str, Checkpoint] = {}
        problems: list[str] = []
        kinds: set[type[InputError]] = set()
        for name, reference in (("base", base), *sources.items()):
            try:
                if key_of(base) in found and _is_adapter(reference):
                    found[key_of(reference)] = self._open_adapter(reference, found[key_of(base)])
                elif problems and key_of(base) not in found and _is_adapter(reference):
                    continue  # its base could not be opened, which is reported already
                else:
                    model = self._open(reference, allow_missing)
                    beside = found.get(key_of(base), model)
                    found[key_of(reference)] = self._beside(model, beside, allow_missing)
            except InputError as error:
                where = f"{name}: " if isinstance(reference, Recipe) else ""
                problems += [f"{where}{problem}" for problem in error.problems]
                kinds.add(type(error))
        if problems:
            kind = CheckpointError if kinds == {CheckpointError} else PlanError
            raise kind(dict.fromkeys(problems))
        return found

    def _open(self, reference: Reference, allow_missing: Sequence[str] = ()) -> Checkpoint:
        key = key_of(reference)
        if allow_missing and isinstance(reference, str):
            key += f" without {' '.join(allow_missing)}"  # another recipe may need all of it
        if key not in self._opened:
            if isinstance(reference, str):
                self._opened[key] = Checkpoint(resolve(reference), allow_missing)
            else:
                from evomerge.weights.merge import merge_one  # which imports torch

                self._opened[key] = VirtualCheckpoint(self.plan(reference), merge_one)
        return self._opened[key]

    def _beside(
        self, model: Checkpoint, base: Checkpoint, allow_missing: Sequence[str]
    ) -> Checkpoint:
        """The model with the names of a base, however its own files name and pack its tensors."""
        if model is base:
            return model
        if (model, base) not in self._views:
            layout = self._layouts.setdefault(base, KeyLayout(base))
            self._views[model, base] = layout.view(model, allow_missing)
        return self._views[model, base]

    def _open_adapter(self, reference: Reference, base: Checkpoint) -> Checkpoint:
        assert isinstance(reference, str)
        key = f"{reference} on {id(base)}"  # another recipe may put it on another base
        if key not in self._opened:
            self._opened[key] = Adapter(resolve(reference), base)
        return self._opened[key]


def _is_adapter(reference: Reference) -> bool:
    return isinstance(reference, str) and holds_adapter(resolve(reference))


def read_recipe(path: Path, note: Note = ignore) -> Recipe:
    """A recipe from evomerge's or mergekit's YAML; relative folders are seen from the file.

    Args:
        note: is given a sentence for what has no effect in a mergekit file.

    Raises:
        RecipeError: neither of the two, or something in it is wrong.
    """
    return read_scored_recipe(path, note)[0]


def read_scored_recipe(path: Path, note: Note = ignore) -> tuple[Recipe, list[Scored]]:
    """A recipe, and what it and the recipe files in it say that they were scored with.

    Args, raises: as `read_recipe`.
    """

    def opened(model: str) -> Checkpoint:
        return Checkpoint(resolve(model), ("*",))  # what it lacks is told when it is merged

    reader = RecipeReader(
        anchor, lambda model: opened(model).layers, lambda model: opened(model).places, note
    )
    return reader.read(path), reader.scored
