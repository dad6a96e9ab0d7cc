"""Recipe files, evomerge's or mergekit's, read together with the recipe files that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.files import absolute
from evomerge.recipes.mergekit import Note, from_documents, ignore, is_mergekit
from evomerge.recipes.mergekit.other_files import other_program
from evomerge.recipes.places import PlacesOf
from evomerge.recipes.recipe import Recipe
from evomerge.recipes.scored import Scored, read_scored
from evomerge.recipes.yaml import from_yaml, is_recipe
from evomerge.yaml_files import read_documents


@dataclass(frozen=True, slots=True)
class RecipeReader:
    """Reads recipe files.

    Args:
        anchor: makes a reference to a model absolute, seen from a folder.
        layers_of: gives a model's number of blocks.
        places_of: gives the place of every tensor of a model.
        note: is given a sentence for what has no effect in a mergekit file.

    Attributes:
        scored: of every file read so far, the recipe with what it was scored with.
    """

    anchor: Callable[[str, Path], str]
    layers_of: Callable[[str], int]
    places_of: PlacesOf
    note: Note = ignore
    scored: list[Scored] = field(default_factory=list)

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Recipe:
        """The recipe in a file.

        Relative paths in evomerge's YAML are seen from the file; those in mergekit's from the
        working directory, as by mergekit.

        Args:
            chain: the files that led to this one, outermost first.

        Raises:
            RecipeError: a mistake in the file, or a recipe that is made of itself.
        """
        whole = absolute(path, Path.cwd())
        if whole in chain:
            shown = " -> ".join(str(file) for file in (*chain, whole))
            raise RecipeError(f"{path}: the recipe is made of itself: {shown}. Change a source.")
        documents = read_documents(path)
        if wrong := [text for content in documents if (text := other_program(content))]:
            raise RecipeError([f"{path}: {text}" for text in dict.fromkeys(wrong)])
        if all(is_mergekit(content) for content in documents):
            here = Path.cwd()
            return from_documents(
                documents,
                str(path),
                lambda model: self.layers_of(self.anchor(model, here)),
                lambda model: self.places_of(self.anchor(model, here)),
                self.note,
            ).located(lambda model: self.anchor(model, here))
        if len(documents) > 1:
            raise RecipeError(f"{path}: expected one recipe, got {len(documents)} YAML documents")

        def open_(model: str) -> str | Recipe:
            file = absolute(model, whole.parent)
            if is_recipe(file):
                return self.read(file, (*chain, whole))
            return self.anchor(model, whole.parent)

        recipe = from_yaml(documents[0], str(path), open_)
        folders = {
            name: self.anchor(folder, whole.parent) for name, folder in recipe.statistics.items()
        }
        recipe = recipe.model_copy(update={"statistics": folders})
        self.scored.append(read_scored(recipe, documents[0], str(path)))
        return recipe
