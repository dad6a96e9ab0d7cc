"""A checkpoint whose tensors are seen by other names, or joined or split differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import listed
from evomerge.weights.architecture.arrays import Array, Leaf, leaves, tensors_of
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Input


class Rearranged(Checkpoint):
    """A checkpoint whose tensors are seen by the names of another one, and shaped as its.

    Args:
        source: whose files are read.
        arrays: by the other names, what the tensors are made of.
    """

    def __init__(self, source: Checkpoint, arrays: Mapping[str, Array]) -> None:
        self.source, self.arrays = source, dict(sorted(arrays.items()))
        self.folder, self.config, self.files = source.folder, source.config, source.files
        self.tensors = {name: self._info(array) for name, array in self.arrays.items()}

    def _info(self, array: Array) -> TensorInfo:
        infos = [self.source.tensors[leaf.name] for leaf in leaves(array)]
        # as torch.cat has it where parts differ
        dtypes = {info.dtype for info in infos}
        return infos[0]._replace(
            dtype=infos[0].dtype if len(dtypes) == 1 else "F32", shape=array.shape
        )

    @property
    def on_disk(self) -> dict[Path, Checkpoint]:
        """The models on disk whose files are read for this one, by folder."""
        return self.source.on_disk

    @property
    def note(self) -> str:
        """A sentence about it that a user should know."""
        other = [n for n, a in self.arrays.items() if not isinstance(a, Leaf) or a.name != n]
        used = {own for name in self.arrays for own in self.owners(name)}
        copies = [name for name in self.source.tensors if name not in used]
        found = []
        if other:
            found.append(
                f"{len(other)} tensors, {other[0]} first, have other names in its files than in "
                "the base's, or are packed otherwise; they are matched as Transformers loads them."
            )
        elif copies:
            found.append(f"{listed(copies)}: copies of other tensors, which the base leaves out.")
        return " ".join([*found, *filter(None, [self.source.note])])

    @property
    def tokenizer_folder(self) -> Path:
        """The folder that holds its tokenizer."""
        return self.source.tokenizer_folder

    @cached_property
    def fingerprint(self) -> str:
        """That of the source: names are no part of what it computes."""
        return self.source.fingerprint

    def changed_files(self) -> list[str]:
        """A sentence for each of its files whose content is no longer what it was."""
        return self.source.changed_files()

    def read(self, name: str) -> Tensor:
        """The tensor; treat it as read-only."""
        from evomerge.weights.layouts.lazy_arrays import LazyArray

        array = self.arrays[name]
        if isinstance(array, Leaf):
            return self.source.read(array.name)
        return LazyArray(array, self.source.read).whole()

    def input(self, name: str) -> Input:
        """The tensor, or an object that reads stretches of it when asked."""
        from evomerge.weights.layouts.lazy_arrays import LazyArray

        array = self.arrays[name]
        if isinstance(array, Leaf):
            return self.source.input(array.name)
        return LazyArray(array, self.source.input)

    def statistic(
        self, name: str, read: Callable[[str], Tensor | None], *, elementwise: bool
    ) -> Tensor | None:
        """The statistic of a tensor, from those of the source's own tensors; None without one.

        One that is not elementwise is of a whole tensor.
        """
        from evomerge.weights.layouts.lazy_arrays import LazyArray

        array = self.arrays[name]
        own = {
            n: self.source.statistic(n, read, elementwise=elementwise) for n in self.owners(name)
        }
        known = {name: value for name, value in own.items() if value is not None}
        if isinstance(array, Leaf):
            return known.get(array.name)
        if not elementwise or len(known) < len(own):
            return None
        return LazyArray(array, known.__getitem__).whole()

    def non_finite_in(self, name: str) -> str | None:
        """A sentence that names file and tensor if it holds a NaN or an infinity."""
        found = (self.source.non_finite_in(own) for own in self.owners(name))
        return next((sentence for sentence in found if sentence is not None), None)

    def owners(self, name: str) -> list[str]:
        """The source's own tensors that a tensor is made of."""
        return tensors_of(self.arrays[name])
