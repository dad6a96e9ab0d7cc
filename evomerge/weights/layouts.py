"""A source whose tensors have other names than the base's, or are joined or split differently.

Both are taken to what Transformers holds in memory, and the source from there to the names of the
base, which are those of the merged model. That is done on names and shapes alone.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError
from evomerge.recipes.places import renumber
from evomerge.weights.arrays import Array, Leaf, invert, leaves, substitute
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import TensorInfo
from evomerge.weights.names import depth, stack

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.kernels.stack import Input
    from evomerge.weights.loading import Loaded

Block = tuple[str, int]
_OUTSIDE: Block = ("", -1)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_NAMED = 3  # tensors that a sentence names one by one


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
    def note(self) -> str | None:
        """A sentence about it that a user should know, if there is one."""
        return self.source.note

    @property
    def tokenizer_folder(self) -> Path:
        """The folder that holds its tokenizer."""
        return self.source.tokenizer_folder

    @cached_property
    def fingerprint(self) -> str:
        """That of the source: names are no part of what it computes."""
        return self.source.fingerprint

    def read(self, name: str) -> Tensor:
        """The tensor; treat it as read-only."""
        from evomerge.weights.lazy_arrays import LazyArray

        array = self.arrays[name]
        if isinstance(array, Leaf):
            return self.source.read(array.name)
        return LazyArray(array, self.source.read).whole()

    def input(self, name: str) -> Input:
        """The tensor, or an object that reads stretches of it when asked."""
        from evomerge.weights.lazy_arrays import LazyArray

        array = self.arrays[name]
        if isinstance(array, Leaf):
            return self.source.input(array.name)
        return LazyArray(array, self.source.input)

    def non_finite_in(self, name: str) -> str | None:
        """A sentence that names file and tensor if it holds a NaN or an infinity."""
        found = (self.source.non_finite_in(own) for own in self.owners(name))
        return next((sentence for sentence in found if sentence is not None), None)

    def owners(self, name: str) -> list[str]:
        """The source's own tensors that a tensor is made of."""
        return _names(self.arrays[name])


class Layout:
    """The names of a base and how its tensors are packed, to see sources so.

    Args:
        base: keeps its own.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._base = base

    def view(self, source: Checkpoint) -> Checkpoint:
        """The source with the base's names: itself where they are its own.

        Raises:
            CheckpointError: tensors in the blocks that neither name nor rule matches, all at once.
        """
        if not self._differs(source):
            return source
        view = source
        if self._module is not None:
            theirs = self._load(source)
            problems = [*self._problems, *(f"{source.folder}: {p}" for p in theirs.problems)]
            arrays = self._arrays(source, theirs, problems)
            if problems:
                raise CheckpointError(problems)
            if not all(isinstance(a, Leaf) and a.name == name for name, a in arrays.items()):
                view = Rearranged(source, arrays)
        self._refuse_strays(view)
        return view

    def _differs(self, source: Checkpoint) -> bool:
        """Whether each has tensors that the other has not, or has turned; in whatever block."""
        if self._base.bare or source.bare:
            return False
        ours, theirs = self._base.tensors, source.tensors
        patterns, other = {_pattern(name) for name in ours}, {_pattern(name) for name in theirs}
        shapes = [(ours[n].shape, theirs[n].shape) for n in ours.keys() & theirs.keys()]
        turned = any(a != b and math.prod(a) == math.prod(b) for a, b in shapes)
        return turned or bool(patterns - other and other - patterns)

    @cached_property
    def _module(self) -> Any | None:
        from evomerge.weights.loading import empty_module

        return empty_module(self._base.folder)

    def _load(self, model: Checkpoint) -> Loaded:
        """What a checkpoint becomes in memory: in the base's class, with its own depth."""
        from evomerge.weights.loading import empty_module, loaded

        module = self._module
        same = model.config.get("model_type") == self._base.config.get("model_type")
        if same and depth(model.config) != depth(self._base.config):
            module = empty_module(model.folder, type(module).__name__) or module
        return loaded(module, {name: info.shape for name, info in model.tensors.items()})

    @cached_property
    def _ours(self) -> Loaded:
        return self._load(self._base)

    @cached_property
    def _stored(self) -> dict[str, Array]:
        """The base's tensors, made of those in memory."""
        return invert(self._ours.arrays)

    @property
    def _problems(self) -> list[str]:
        """Why the base itself cannot be taken to memory and back."""
        known = self._stored.keys() | set(self._ours.unknown.values())
        lost = [name for name in self._base.tensors if name not in known]
        problems = [f"{self._base.folder}: {problem}" for problem in self._ours.problems]
        if lost and not problems:
            problems = [f"{self._base.folder}: a part of {_listed(lost)} is not loaded"]
        return problems

    def _arrays(self, source: Checkpoint, theirs: Loaded, problems: list[str]) -> dict[str, Array]:
        """The source's tensors by the base's names; those that it has not under their own."""
        found: dict[str, Array] = {}
        used: set[int] = set()
        for name, array, known in self._wanted(theirs):
            needed = _names(array)
            lacking = [own for own in needed if own not in known]
            if len(lacking) == len(needed):
                continue
            if lacking:
                problems.append(
                    f"{source.folder}: lacks {_listed(lacking)}, of which the base's {name} is "
                    "made. Copy the model again, or drop this source."
                )
                continue
            try:
                found[name] = substitute(array, known)
            except ValueError as error:
                problems.append(f"{source.folder}: cannot be the base's {name}: {error}")
            used.update(id(known[own]) for own in needed)
        for name, array in theirs.arrays.items():
            if id(array) not in used:
                found.setdefault(name, array)
        for known_as, own in theirs.unknown.items():
            name = self._ours.unknown.get(known_as, own)
            found.setdefault(name, Leaf(own, source.tensors[own].shape))
        return found

    def _wanted(self, theirs: Loaded) -> Iterator[tuple[str, Array, Mapping[str, Array]]]:
        """Names of the base, what they are made of, and the source's tensors in memory.

        A block that the base has not, or not of that kind, is packed as the base's block of its
        kind is.
        """
        for name, array in self._stored.items():
            yield name, array, theirs.arrays
        used = {own for array in self._stored.values() for own in _names(array)}
        left = {_block(name) for name in theirs.arrays.keys() - used}
        kinds: dict[Block, list[tuple[str, Array]]] = defaultdict(list)
        for name, array in self._stored.items():
            kinds[_block(_names(array)[0])].append((name, array))
        for path, number in sorted(left - {_OUTSIDE}):
            fitting = []
            for kind, members in kinds.items():
                own = {n: renumber(n, number) for _, a in members for n in _names(a)}
                if kind[0] == path and set(own.values()) <= theirs.arrays.keys():
                    fitting.append((members, {n: theirs.arrays[own[n]] for n in own}))
            if fitting:
                members, known = max(fitting, key=lambda pair: len(pair[0]))
                yield from ((renumber(name, number), array, known) for name, array in members)

    def _refuse_strays(self, view: Checkpoint) -> None:
        """Raise for tensors in the blocks of each model that the other has by no name.

        Raises:
            CheckpointError: there are such.
        """
        ours, theirs = _in_blocks(self._base), _in_blocks(view)
        strays = [name for key, name in theirs.items() if key not in ours]
        lacking = [name for key, name in ours.items() if key not in theirs]
        if strays and lacking:
            raise CheckpointError(
                f"{view.folder}: its blocks hold {_listed(strays)}, those of the base "
                f"{self._base.folder} {_listed(lacking)}, and Transformers declares no rule that "
                "makes one of the other. Name its tensors as the base's, or drop this source."
            )


def _names(array: Array) -> list[str]:
    """The tensors that an array is made of, each once."""
    return list(dict.fromkeys(leaf.name for leaf in leaves(array)))


def _pattern(name: str) -> str:
    """The name with its numbers left out."""
    return _NUMBER.sub("*", name)


def _in_blocks(model: Checkpoint) -> dict[str, str]:
    """By pattern, the first tensor in a block of the model."""
    found: dict[str, str] = {}
    for name, place in model.places.items():
        if place.layer is not None:
            found.setdefault(_pattern(name), name)
    return found


def _block(name: str) -> Block:
    """The path and the number of the block that a tensor is in."""
    path = stack(name)
    if path is None:
        return _OUTSIDE
    return path, int(name.removeprefix(f"{path}.").partition(".")[0])


def _listed(names: Sequence[str]) -> str:
    """``a, b, c and 4 more``."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
