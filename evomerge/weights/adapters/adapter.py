"""A LoRA adapter on its base, in place of a model: added when tensors are read."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError
from evomerge.weights.adapters._changes import STEM, Change, Changes
from evomerge.weights.adapters.config import read_adapter_config
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import FLOATS, Headers, TensorInfo, read_headers
from evomerge.weights.files.mapped_files import MappedFiles
from evomerge.weights.files.model_files import ModelFiles, weights_digest
from evomerge.weights.files.weight_files import conversion

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Input
    from evomerge.weights.lazy_rows import LowRank


class Adapter(Checkpoint):
    """The checkpoint that merging a LoRA adapter into its base would give, in float32.

    Args:
        folder: holds adapter_config.json and adapter_model.safetensors.
        base: the model that the adapter was made for.

    Attributes:
        base: the model that the adapter was made for.
        settings: of adapter_config.json.
        stored: name to `TensorInfo` of what is in the adapter's own file.
        changes: name of a tensor to what the adapter does to it.

    Raises:
        CheckpointError: files that are missing or damaged, kinds of adapters that are no sums of
            weights, tensors that do not fit the base; all of these at once.
    """

    def __init__(self, folder: Path, base: Checkpoint) -> None:
        self.folder, self.base = folder, base
        self.config = base.config
        self._files = MappedFiles()
        self.files = ModelFiles(folder)
        self.stored: dict[str, TensorInfo] = {}
        self._note: str | None = None
        problems: list[str] = []
        try:
            self.settings = read_adapter_config(folder)
        except CheckpointError as error:
            problems += error.problems
        try:
            headers = _headers(folder)
            self.stored, self._note = headers.tensors, headers.note
        except CheckpointError as error:
            problems += error.problems
        if problems:
            raise CheckpointError(problems)
        self.files.weights = sorted({info.file.name for info in self.stored.values()})
        changes = Changes(self.stored, self.settings, base)
        if changes.problems:
            raise CheckpointError([f"{folder}: {problem}" for problem in changes.problems])
        self.changes = changes.by_tensor
        changed = {
            name: self.stored[change.saved]
            if change.saved is not None
            else TensorInfo(folder, "F32", base.tensors[name].shape, 0, 0)
            for name, change in self.changes.items()
        }
        self.tensors = dict(sorted({**base.tensors, **changed}.items()))

    @property
    def plain(self) -> bool:
        """Whether it only adds products of matrices, which vLLM can do by itself."""
        return all(change.plain for change in self.changes.values())

    @property
    def note(self) -> str | None:
        """A sentence where its config names another base than it has here."""
        named = self.settings.base
        if not named or Path(named).name in (self.base.folder.name, *self.base.folder.parts):
            return self._note
        other = (
            f"the adapter says that it was made for {named}, its base here is {self.base.folder}."
        )
        return f"{other} {self._note}" if self._note else other

    @property
    def tokenizer_folder(self) -> Path:
        """The adapter's folder if a tokenizer was saved in it, else that of its base."""
        own = (self.folder / "tokenizer.json").exists()
        return self.folder if own else self.base.tokenizer_folder

    @property
    def generation_folder(self) -> Path:
        """The adapter's folder if a generation config was saved in it, else that of its base."""
        own = (self.folder / "generation_config.json").exists()
        return self.folder if own else self.base.generation_folder

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the base's fingerprint, the adapter's tensors and what they change."""
        own = weights_digest(self.stored)
        parts = [self.base.fingerprint, own, repr(sorted(self.changes.items()))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def tensor(self, name: str) -> Tensor:
        """A tensor of the adapter's own file; treat it as read-only."""
        return self._files.read(self.stored[name].file, name)

    def read(self, name: str) -> Tensor:
        """The base's tensor with the adapter added; float32 where the adapter changes it."""
        from evomerge.weights.lazy_rows import LowRank

        found = self.input(name)
        return found.whole() if isinstance(found, LowRank) else found

    def input(self, name: str) -> Tensor | LowRank:
        """The tensor, or an object that computes its matrix products row by row when asked."""
        from torch import Tensor

        from evomerge.weights.lazy_rows import LowRank

        change = self.changes.get(name)
        if change is None:
            return self.base.read(name)
        weight: Input
        weight = self.base.input(name) if change.saved is None else self.tensor(change.saved)
        if change.a and change.b:
            left, right = self.factors(change)
            length = self.tensor(change.magnitude).view(-1) if change.magnitude else None
            return LowRank(weight, left, right, change.scale, length)
        assert isinstance(weight, Tensor)
        if change.bias is None:
            return weight
        added = self.tensor(change.bias).double().mul_(change.scale)
        return added.add_(weight.double()).float()

    def factors(self, change: Change) -> tuple[Tensor, Tensor]:
        """(m, r) and (r, n), whose product has the shape of the changed weight."""
        assert change.a and change.b
        a, b = self.tensor(change.a), self.tensor(change.b)
        return (a.T, b.T) if change.transposed else (b, a)

    def non_finite(self) -> list[str]:
        """A sentence for each tensor of its own that holds a NaN or an infinity."""
        return [sentence for name in self.stored if (sentence := self._own_non_finite(name))]

    def non_finite_in(self, name: str) -> str | None:
        """A sentence that names file and tensor if it, or what is added, holds NaN or infinity."""
        change = self.changes.get(name)
        own = () if change is None else change.keys
        sentences = [s for key in own if (s := self._own_non_finite(key))]
        if sentences or (change is not None and change.saved is not None):
            return next(iter(sentences), None)
        return self.base.non_finite_in(name)

    def _own_non_finite(self, name: str) -> str | None:
        from evomerge.weights.files.contents import non_finite_sentence

        return non_finite_sentence(self.stored[name], name, self.tensor(name))


def _headers(folder: Path) -> Headers:
    if not any(folder.glob(f"{STEM}.safetensors*")):
        cure = conversion(folder) or " Copy it again."
        raise CheckpointError(f"{folder}: lacks {STEM}.safetensors.{cure}")
    found = read_headers(folder, STEM)
    if wrong := [name for name, info in found.tensors.items() if info.dtype not in FLOATS]:
        stored = found.tensors[wrong[0]].dtype
        raise CheckpointError(
            f"{folder}: {wrong[0]} is stored as {stored}. Save it in full precision."
        )
    return found
