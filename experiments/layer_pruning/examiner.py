"""Scores of models made of some of the blocks of the one that a search prunes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from evomerge.config.load import load
from evomerge.recipes import Recipe
from evomerge.scoring import fitness_value
from evomerge.types import Job, Split
from evomerge.worker import Worker


class Scores(NamedTuple):
    """On the examples of the search, and on those that none saw."""

    search: float
    held_out: float


class Examiner:
    """Asks as the search does, of paths that it need not have met.

    Args:
        search: its YAML.
    """

    def __init__(self, search: Path) -> None:
        self._loaded = load(search)
        self._worker = Worker(self._loaded.search.setup)
        self._known: dict[tuple[str, Split], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()

    def search(self, blocks: Sequence[int]) -> float:
        """The fitness on the search examples."""
        return self._score(blocks, "search")

    def both(self, blocks: Sequence[int]) -> Scores:
        """The fitness on both splits."""
        return Scores(self._score(blocks, "search"), self._score(blocks, "held_out"))

    def _score(self, blocks: Sequence[int], split: Split) -> float:
        recipe = self._recipe(blocks)
        if (recipe.digest, split) not in self._known:
            found = self._worker.evaluate(Job(0, recipe, split))
            assert found.status == "done", found.error
            value = fitness_value(self._loaded.file.fitness, found.tasks)
            self._known[recipe.digest, split] = value
        return self._known[recipe.digest, split]

    def _recipe(self, blocks: Sequence[int]) -> Recipe:
        context = self._loaded.search.context
        (name,) = context.sources
        slices = [{name: [block, block + 1]} for block in blocks]
        return context.recipe("passthrough", stack={"slices": slices})
