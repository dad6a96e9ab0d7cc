"""A model folder, read lazily: headers first, tensors memory-mapped when asked for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError
from evomerge.files import read_object
from evomerge.recipes.places import Place
from evomerge.weights.architecture.names import is_position, language_parts, places
from evomerge.weights.files.damage import absurd_counts, damaged_files
from evomerge.weights.files.headers import FLOATS, read_headers
from evomerge.weights.files.mapped_files import MappedFiles
from evomerge.weights.files.model_files import WEIGHTS, ModelFiles, weights_digest
from evomerge.weights.files.token_ids import special_tokens, token_ids
from evomerge.weights.files.weight_files import conversion

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Input

AGAIN = "Copy the file again."


class Checkpoint:
    """A folder with safetensors weights, as a rule one of Hugging Face.

    Args:
        folder: holds model.safetensors or shards with an index, and mostly a config.json.
        allow_missing: patterns of tensors that its files may lack.

    Attributes:
        tensors: name to `TensorInfo`, sorted by name.
        config: the parsed config.json; empty where there is none.
        files: what it is read from; None where that is other models.

    Raises:
        CheckpointError: anything missing, truncated or damaged; all problems at once.
    """

    def __init__(self, folder: Path, allow_missing: Sequence[str] = ()) -> None:
        self.folder = folder
        self.files: ModelFiles | None = ModelFiles(folder)  # before anything is read
        self.config = _config(folder)
        headers = read_headers(folder, bare=self.bare, allowed=allow_missing)
        self.tensors = headers.tensors
        self._note = headers.note
        self.files.weights = sorted({info.file.name for info in self.tensors.values()})
        self._files = MappedFiles()

    @property
    def bare(self) -> bool:
        """Whether it is no Transformers model: weights for a PyTorch module of the user's own.

        Nothing is known of its tensor names: it has no blocks, and every role is ``other``.
        """
        return not self.config.keys() & {"model_type", "architectures"}

    @property
    def on_disk(self) -> dict[Path, Checkpoint]:
        """The models on disk whose files are read for this one, by folder."""
        return {self.folder: self}

    @property
    def note(self) -> str | None:
        """A sentence about it that a user should know, if there is one."""
        return self._note

    @cached_property
    def damage(self) -> list[str]:
        """A sentence for each small file, as of its tokenizer, that Transformers cannot read."""
        folders = dict.fromkeys((self.folder, self.tokenizer_folder))
        return [] if self.bare else [s for folder in folders for s in damaged_files(folder)]

    @cached_property
    def places(self) -> dict[str, Place]:
        """Block index and role of every tensor."""
        if self.bare:
            return dict.fromkeys(self.tensors, Place(None, "other"))
        return places(self.tensors, self.config)

    @cached_property
    def layers(self) -> int:
        """The number of blocks."""
        return 1 + max((p.layer for p in self.places.values() if p.layer is not None), default=-1)

    @property
    def tokenizer_folder(self) -> Path:
        """The folder that holds its tokenizer."""
        return self.folder

    @property
    def generation_folder(self) -> Path:
        """The folder that holds its generation config, if it has one."""
        return self.folder

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token string to row; None where no file of the folder tells."""
        return token_ids(self.tokenizer_folder)

    @cached_property
    def special_tokens(self) -> frozenset[str]:
        """The tokens that its tokenizer, which has been read, calls special."""
        return special_tokens(self.tokenizer_folder)

    @cached_property
    def embedding(self) -> str | None:
        """Name of the tensor with a row for every token; the tallest, where there are several."""
        tables = [
            name
            for name, place in self.places.items()
            if place.role == "embedding"
            and len(self.tensors[name].shape) == 2
            and not is_position(name)
        ]
        return max(tables, key=lambda name: self.tensors[name].shape[0], default=None)

    @cached_property
    def token_tables(self) -> dict[str, int]:
        """By name the axis of tokens of the tensors that have one: embedding, head, its bias.

        Where Transformers does not build the model, roles and heights tell. Integers are no
        weights: rows of them are not merged (`token_numbers`).
        """
        own = self._token_tables
        return {n: axis for n, axis in own.items() if self.tensors[n].dtype in FLOATS}

    @property
    def token_numbers(self) -> frozenset[str]:
        """Names of the tensors with integers for every token, as the experts that it goes to."""
        return frozenset(self._token_tables.keys() - self.token_tables.keys())

    @cached_property
    def _token_tables(self) -> dict[str, int]:
        if self.embedding is None:
            return {}
        from evomerge.weights.architecture.token_tables import (
            token_tables,  # which imports Transformers
        )

        rows = self.tensors[self.embedding].shape[0]
        shapes = {name: info.shape for name, info in self.tensors.items()}
        tables, known = token_tables(self.config, shapes, rows)
        by_role = (
            name
            for name, place in self.places.items()
            if place.role in ("embedding", "head")
            and name not in known
            and self.tensors[name].shape[:1] == (rows,)
            and not is_position(name)
        )
        return {**tables, **dict.fromkeys(by_role, 0)}

    @cached_property
    def unread(self) -> frozenset[str]:
        """Names of the tensors that Transformers does not load, as of multi-token prediction.

        Empty where it does not build the model.
        """
        from evomerge.weights.architecture.loading import unread

        return unread(self.config, {name: info.shape for name, info in self.tensors.items()})

    @cached_property
    def head(self) -> str | None:
        """Name of the output matrix, of the embedding's shape; None where none is stored."""
        shape = self.tensors[self.embedding].shape if self.embedding is not None else None
        heads = (n for n in self.tensors if self.places[n].role == "head")
        return next((name for name in heads if self.tensors[name].shape == shape), None)

    @cached_property
    def tied(self) -> bool:
        """Whether the output head is the embedding, by the rule of Transformers.

        A config that leaves the key out has its architecture's default, which is not known here:
        a missing key says nothing. Two stored tensors that differ are not tied, whatever the
        config says. Weights are read only where both are stored.
        """
        parts = [self.config, *language_parts(self.config)]
        flags = [part["tie_word_embeddings"] for part in parts if "tie_word_embeddings" in part]
        if flags and not any(flags):
            return False
        if self.head is None or self.embedding is None:
            return True
        from torch import equal

        head, embedding = self.read(self.head), self.read(self.embedding)
        # most differ in the first row already
        return equal(head[:1], embedding[:1]) and equal(head, embedding)

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """A digest of names, dtypes, shapes and of samples from every tensor.

        Another digest means other weights. The same digest does not prove the same weights: a bit
        changed between two samples of a large tensor goes unnoticed, other training does not.
        Reading every byte would take minutes at 7B.

        It depends neither on the folder nor on how the tensors are spread over files.
        """
        return weights_digest(self.tensors)

    @property
    def digests(self) -> dict[str, str]:
        """All that a score depends on: `WEIGHTS` to the fingerprint, and file to digest.

        Raises:
            CheckpointError, SourceChangedError: as `ModelFiles.digests`.
        """
        return {WEIGHTS: self.fingerprint, **(self.files.digests if self.files else {})}

    def changed_files(self) -> list[str]:
        """A sentence for each of its files whose content is no longer what it was.

        Raises:
            OSError: the disk cannot be read.
        """
        if self.files is None:
            return []
        before = self.files.states
        sentences = self.files.changes()
        if self.files.states != before:  # equal files in the place of those that are mapped
            self._files.forget()
        return sentences

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from its file; treat it as read-only."""
        return self._files.read(self.tensors[name].file, name)

    def input(self, name: str) -> Input:
        """The tensor, or an object that computes stretches of it when asked."""
        return self.read(name)

    def statistic(
        self,
        name: str,
        read: Callable[[str], Tensor | None],
        *,
        elementwise: bool,
    ) -> Tensor | None:
        """The statistic of a tensor, from those recorded of this model; None without one.

        Args:
            read: gives the statistics by the names in the model's files.
            elementwise: whether they have a value for each of a tensor's.
        """
        return read(name)

    def non_finite(self) -> list[str]:
        """A sentence for each tensor that holds a NaN or an infinity. Reads all weights once."""
        return [sentence for name in self.tensors if (sentence := self.non_finite_in(name))]

    def non_finite_in(self, name: str) -> str | None:
        """A sentence that names file and tensor if it holds a NaN or an infinity."""
        from evomerge.weights.files.contents import non_finite_sentence

        info = self.tensors[name]
        return non_finite_sentence(info, name, self.read(name)) if info.dtype in FLOATS else None


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    whole = (folder / "config.json").exists() and any(folder.glob("model*.safetensors"))
    return (folder / "adapter_config.json").exists() and not whole


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    path = folder / "config.json"
    if holds_adapter(folder):
        raise CheckpointError(
            f"{folder}: holds an adapter, not a model. Name it as a source of a recipe whose base "
            "it was made for, or in a mergekit file as model+adapter."
        )
    there = os.path.lexists(path)
    if not there and any(folder.glob("*.safetensors")):
        return {}
    if not there:
        raise CheckpointError(
            f"{folder}: holds neither config.json nor safetensors files, so it is not a model."
            f"{conversion(folder)}"
        )
    config = read_object(path, CheckpointError, AGAIN)
    if problems := [f"{path}: {problem}. Repair it." for problem in absurd_counts(config)]:
        raise CheckpointError(problems)
    return config
