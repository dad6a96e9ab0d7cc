"""The checkpoints of a merge, opened once and lined up."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from torch import Tensor

from evomerge.errors import CheckpointError, PlanError
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import FLOATS
from evomerge.weights.mismatches import (
    config_problems,
    notes,
    shape_problems,
    vocabulary_problems,
)
from evomerge.weights.references import resolve
from evomerge.weights.slots import Slot, line_up, refill
from evomerge.weights.vocabulary import row_map

__all__ = ["Models", "Slot"]


class Models:
    """A base and its sources.

    Args:
        base: a folder or hub name.
        sources: name to folder or hub name.
        tokenizer: ``base`` aligns vocabularies that differ; None demands equal ones.

    Attributes:
        base, sources: the open checkpoints.
        slots: every tensor of the merged model.
        notes: what a person should know though it is no error.

    Raises:
        CheckpointError: models that cannot be opened, all at once.
        PlanError: models that do not fit together, all mismatches at once.
    """

    def __init__(self, base: str, sources: Mapping[str, str], tokenizer: str | None = None) -> None:
        opened: dict[str, Checkpoint] = {}
        problems: list[str] = []
        for reference in dict.fromkeys([base, *sources.values()]):
            try:
                opened[reference] = Checkpoint(resolve(reference))
            except CheckpointError as error:
                problems += error.problems
        if problems:
            raise CheckpointError(problems)
        self.base = opened[base]
        self.sources = {name: opened[reference] for name, reference in sources.items()}
        self._aligns = tokenizer == "base"
        self._base_reference, self._references = base, dict(sources)
        self.slots = line_up(self.base, self.sources, untied=self.untied, align=self._aligns)
        self._check()
        self.notes = list(notes(self.base, self.sources, self.slots, self.row_maps))

    def select(self, sources: Mapping[str, str]) -> Models:
        """The same models with only these sources, filling the same tensors.

        The values are those of models opened with these sources alone, bit for bit.

        Args:
            sources: name to reference, each one of this base and these sources.

        Raises:
            PlanError: references that are neither.
        """
        if list(sources.items()) == list(self._references.items()):
            return self
        # where each comes from: a source of ours, or None for the base
        known = {reference: name for name, reference in self._references.items()}
        origin = {name: known.get(reference) for name, reference in sources.items()}
        stray = [r for n, r in sources.items() if origin[n] is None and r != self._base_reference]
        if stray:
            raise PlanError(
                f"not among the models of this search: {', '.join(stray)}. "
                "Add them to the search's sources."
            )
        chosen = copy.copy(self)
        chosen._references = dict(sources)
        chosen.untied = self.untied
        chosen.row_maps = {n: self.row_maps[o] if o else None for n, o in origin.items()}
        chosen.sources = {n: self.sources[o] if o else self.base for n, o in origin.items()}
        all_tied = self.untied and all(c.tied for c in chosen.checkpoints.values())
        head = self.base.embedding if all_tied else None
        chosen.slots = refill(self.slots, origin, head=head)
        return chosen

    @property
    def checkpoints(self) -> dict[Path, Checkpoint]:
        """Every distinct checkpoint, by folder."""
        return {c.folder: c for c in (self.base, *self.sources.values())}

    @cached_property
    def row_maps(self) -> dict[str, Tensor | None]:
        """Source to its map from the base's rows; None where rows mean the same anyway."""
        return {name: self._row_map(source) for name, source in self.sources.items()}

    @cached_property
    def untied(self) -> bool:
        """Whether some model has a head of its own, so that all are untied (rule R10)."""
        return any(not c.tied for c in self.checkpoints.values())

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """What most of the base's tensors are stored in; float32 where merges cannot be."""
        infos = self.base.tensors.values()
        counts = Counter(FLOATS[info.dtype] for info in infos if info.dtype in FLOATS)
        common = max(counts, key=counts.__getitem__, default="float32")
        known = common if common in ("bfloat16", "float16") else "float32"
        return cast(Literal["float32", "bfloat16", "float16"], known)

    def _row_map(self, source: Checkpoint) -> Tensor | None:
        ours, theirs = self.base.vocabulary, source.vocabulary
        rows = [c.tensors[c.embedding].shape[0] for c in (self.base, source) if c.embedding]
        if not self._aligns or ours is None or theirs is None or len(rows) < 2:
            return None
        if ours == theirs and rows[0] == rows[1]:
            return None
        return row_map(ours, theirs, rows[0], rows[1])

    def _check(self) -> None:
        base, sources = self.base, self.sources
        problems = [
            *config_problems(base, sources),
            *vocabulary_problems(base, sources, aligns=self._aligns),
            *shape_problems(self.slots, sources, self.row_maps, aligns=self._aligns),
        ]
        if problems:
            raise PlanError(problems)
