"""The checkpoints of a merge, opened once, and how their tensors line up."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from evomerge.errors import CheckpointError, PlanError
from evomerge.weights.checkpoint import FLOATS, Checkpoint
from evomerge.weights.names import Place
from evomerge.weights.references import resolve
from evomerge.weights.vocabulary import row_map, token_ids

# Keys that change what the same weights compute, though every shape agrees.
_SAME_CONFIG = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim")
_NOTED_CONFIG = ("rope_theta", "rope_parameters", "rope_scaling", "rms_norm_eps", "hidden_act")


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the merged model and where it comes from.

    Attributes:
        place: block index and role.
        shape: after vocabularies are aligned.
        base: name of the base's tensor, None where the base has none (rule R8).
        inputs: source to the name of its tensor, for the sources that have it.
        floating: whether it is merged; other tensors are copied from the base.
        aligned: whether rows are matched through token strings first (rule R9).
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    base: str | None
    inputs: Mapping[str, str]
    floating: bool
    aligned: bool


class Models:
    """A base and its sources.

    Args:
        base: a folder or hub name.
        sources: name to folder or hub name.
        tokenizer: ``base`` aligns vocabularies that differ; None demands equal ones.

    Attributes:
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
        self.aligns = tokenizer == "base"
        self._base_reference, self._references = base, dict(sources)
        self.notes: list[str] = []
        self.slots = self._slots()

    def select(self, sources: Mapping[str, str]) -> Models:
        """The same models with only these sources, filling the same tensors.

        Args:
            sources: name to reference, each one of this base and these sources.
        """
        if dict(sources) == self._references:
            return self
        # where each comes from: a source of ours, or None for the base
        known = {reference: name for name, reference in self._references.items()}
        origin = {name: known.get(reference) for name, reference in sources.items()}
        stray = [r for n, r in sources.items() if origin[n] is None and r != self._base_reference]
        if stray:
            raise PlanError(f"not among the models of this search: {', '.join(stray)}")
        chosen = copy.copy(self)
        chosen._references = dict(sources)
        chosen.untied = self.untied
        chosen.row_maps = {n: self.row_maps[o] if o else None for n, o in origin.items()}
        chosen.sources = {n: self.sources[o] if o else self.base for n, o in origin.items()}
        chosen.slots = tuple(_with_inputs(slot, origin) for slot in self.slots)
        return chosen

    @property
    def checkpoints(self) -> dict[Path, Checkpoint]:
        """Every distinct checkpoint, by folder."""
        return {c.folder: c for c in (self.base, *self.sources.values())}

    @cached_property
    def row_maps(self) -> dict[str, Tensor | None]:
        """Source to its map from the base's rows, None where both vocabularies are equal."""
        base = token_ids(self.base.folder)
        maps: dict[str, Tensor | None] = {}
        for name, checkpoint in self.sources.items():
            own = token_ids(checkpoint.folder) if checkpoint is not self.base else base
            maps[name] = row_map(base, own) if base is not None and own is not None else None
        return maps

    @cached_property
    def untied(self) -> bool:
        """Whether some model has a head of its own, so that all are untied (rule R10)."""
        return any(not c.tied for c in self.checkpoints.values())

    @property
    def dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """What most of the base's tensors are stored in; float32 where merges cannot be."""
        counts = Counter(FLOATS.get(info.dtype) for info in self.base.tensors.values())
        common = counts.most_common(1)[0][0]
        names: dict[str | None, Literal["bfloat16", "float16"]]
        names = {"bfloat16": "bfloat16", "float16": "float16"}
        return names.get(common, "float32")

    def _slots(self) -> tuple[Slot, ...]:
        problems = self._config_problems()
        if problems:
            raise PlanError(problems)
        names = list(self.base.tensors)
        for checkpoint in self.sources.values():
            names += [name for name in checkpoint.tensors if name not in self.base.tensors]
        slots = [self._slot(name) for name in dict.fromkeys(names)]
        kept = tuple(slot for slot in slots if slot is not None)
        problems = self._vocabulary_problems() + self._shape_problems(kept)
        if problems:
            raise PlanError(problems)
        self._note_missing(kept)
        return kept

    def _place(self, name: str) -> Place:
        for checkpoint in (self.base, *self.sources.values()):
            if name in checkpoint.places:
                return checkpoint.places[name]
        raise KeyError(name)

    def _slot(self, name: str) -> Slot | None:
        place = self._place(name)
        if place.role == "head" and not self.untied:
            return None  # tied everywhere: a stored copy of the embedding is not a tensor
        base = self._tensor_name(self.base, name, place)
        inputs = {
            source: found
            for source, checkpoint in self.sources.items()
            if (found := self._tensor_name(checkpoint, name, place)) is not None
        }
        owner, own = (
            (self.base, base)
            if base
            else next((self.sources[source], tensor) for source, tensor in inputs.items())
        )
        info = owner.tensors[str(own)]
        rows = len(token_ids(self.base.folder) or ()) if self.aligns else 0
        aligned = (
            self.aligns
            and base is not None
            and place.role in ("embedding", "head")
            and info.shape[0] >= rows > 0
        )
        return Slot(name, place, info.shape, base, inputs, info.dtype in FLOATS, aligned)

    @staticmethod
    def _tensor_name(checkpoint: Checkpoint, name: str, place: Place) -> str | None:
        """The checkpoint's tensor for ``name``; a tied head is read from the embedding."""
        if place.role == "head" and checkpoint.tied and name.endswith(".weight"):
            embeddings = [
                n
                for n, p in checkpoint.places.items()
                if p.role == "embedding" and len(checkpoint.tensors[n].shape) == 2
            ]
            # the token embedding is the one with most rows; wpe has one per position
            return max(embeddings, key=lambda n: checkpoint.tensors[n].shape[0], default=None)
        return name if name in checkpoint.tensors else None

    def _config_problems(self) -> list[str]:
        problems = []
        for name, checkpoint in self.sources.items():
            if "quantization_config" in checkpoint.config:
                problems.append(
                    f"{name}: its weights are quantized. Give the full-precision model."
                )
            for key in (*_SAME_CONFIG, *_NOTED_CONFIG):
                mine, theirs = self.base.config.get(key), checkpoint.config.get(key)
                if mine == theirs or None in (mine, theirs):
                    continue
                sentence = f"{name}: {key} is {theirs!r}, the base has {mine!r}."
                if key in _SAME_CONFIG:
                    problems.append(f"{sentence} Drop this source.")
                else:
                    self.notes.append(f"{sentence} The merged model keeps the base's.")
            if checkpoint.layers != self.base.layers:
                problems.append(
                    f"{name}: has {checkpoint.layers} blocks, the base has {self.base.layers}. "
                    "Drop this source."
                )
        if "quantization_config" in self.base.config:
            problems.append("base: its weights are quantized. Give the full-precision model.")
        return problems

    def _vocabulary_problems(self) -> list[str]:
        if self.aligns:
            self.notes += [
                f"{name}: {int((rows < 0).sum())} of the base's {len(rows)} tokens are unknown "
                "to it; its rows are matched by token string."
                for name, rows in self.row_maps.items()
                if rows is not None
            ]
            return []
        return [
            f"{name}: its tokenizer numbers tokens differently from the base's. "
            "Set tokenizer: base, or drop this source."
            for name, rows in self.row_maps.items()
            if rows is not None
        ]

    def _shape_problems(self, slots: tuple[Slot, ...]) -> list[str]:
        """Every tensor whose shape differs, in one sentence a source."""
        problems = []
        for source, checkpoint in self.sources.items():
            wrong = [
                f"{slot.name} is {slot.shape} in base, {theirs} in {source}"
                for slot in slots
                if slot.base is not None
                and source in slot.inputs
                and (theirs := checkpoint.tensors[slot.inputs[source]].shape) != slot.shape
                and not (slot.aligned and theirs[1:] == slot.shape[1:])
            ]
            if wrong:
                more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                verb = "tensor differs" if len(wrong) == 1 else "tensors differ"
                only_vocabulary = all("embed" in w or "head" in w for w in wrong)
                cure = "Set tokenizer: base, or drop" if only_vocabulary else "Drop"
                problems.append(
                    f"{len(wrong)} {verb} in shape: {'; '.join(wrong[:3])}{more}. "
                    f"{cure} one source."
                )
        return problems

    def _note_missing(self, slots: tuple[Slot, ...]) -> None:
        for source in self.sources:
            missing = [s.name for s in slots if s.base is not None and source not in s.inputs]
            if missing:
                self.notes.append(
                    f"{source}: lacks {len(missing)} tensors of the base, {missing[0]} first; "
                    "it takes no part in them."
                )
        extra = [s.name for s in slots if s.base is None]
        if extra:
            self.notes.append(
                f"base: lacks {len(extra)} tensors of a source, {extra[0]} first; "
                "they become the average of the sources that have them."
            )
        tied = {c.tied for c in self.checkpoints.values()}
        if len(tied) == 2:
            self.notes.append("some models tie embedding and head, some do not: all are untied.")


def _with_inputs(slot: Slot, origin: Mapping[str, str | None]) -> Slot:
    """The slot fed by other names: each name's tensor is that of the source it stands for."""
    found = {n: slot.inputs.get(o) if o else slot.base for n, o in origin.items()}
    return replace(slot, inputs={name: tensor for name, tensor in found.items() if tensor})
