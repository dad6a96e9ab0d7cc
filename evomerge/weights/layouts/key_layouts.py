"""A source whose tensors have other names than the base's, or are joined or split differently.

Both are taken to what Transformers holds in memory, and the source from there to the names of the
base, which are those of the merged model. That is done on names and shapes alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, listed
from evomerge.recipes.places import numbered, pattern, renumber
from evomerge.weights.architecture.arrays import Array, Leaf, invert, substitute, tensors_of
from evomerge.weights.architecture.names import stack
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.weight_files import is_allowed
from evomerge.weights.layouts.rearranged import Rearranged
from evomerge.weights.layouts.ties import tied

if TYPE_CHECKING:
    from evomerge.weights.architecture.loading import Loaded

Block = tuple[str, int]
_OUTSIDE: Block = ("", -1)


class KeyLayout:
    """The names of a base and how its tensors are packed, to see sources so.

    Args:
        base: keeps its own.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._base = base

    def view(self, source: Checkpoint, allow_missing: Sequence[str] = ()) -> Checkpoint:
        """The source with the base's names: itself where they are its own.

        Args:
            allow_missing: patterns of names that either may lack.

        Raises:
            CheckpointError: tensors in the blocks that neither name nor rule matches, all at once.
        """
        differs = self._differs(source)
        if not differs and not self._may_tie_otherwise(source):
            return source
        view = source
        if self._module is not None:
            theirs = self._load(source)
            problems = [*self._problems, *(f"{source.folder}: {p}" for p in theirs.problems)]
            arrays = self._arrays(source, theirs, problems)
            if problems and differs:
                raise CheckpointError(problems)
            own = {name: array.name for name, array in arrays.items() if isinstance(array, Leaf)}
            if not problems and own != {name: name for name in source.tensors}:
                view = Rearranged(source, arrays)
        if differs:
            self._refuse_strays(view, allow_missing)
        return view

    def own_names(self, names: Sequence[str]) -> dict[str, str]:
        """The base's tensors by names in another layout, of those that are whole in both."""
        if self._base.bare or self._module is None:
            return {}
        from evomerge.weights.architecture.loading import loaded

        known = loaded(self._module, dict.fromkeys(names, ())).arrays
        pairs = [(array, self._ours.arrays.get(name)) for name, array in known.items()]
        return {
            theirs.name: ours.name
            for theirs, ours in pairs
            if isinstance(theirs, Leaf) and isinstance(ours, Leaf)
        }

    def _differs(self, source: Checkpoint) -> bool:
        """Whether each has tensors that the other has not, or has turned; in whatever block."""
        if self._base.bare or source.bare:
            return False
        ours, theirs = self._base.tensors, source.tensors
        patterns, other = {pattern(name) for name in ours}, {pattern(name) for name in theirs}
        shapes = [(ours[n].shape, theirs[n].shape) for n in ours.keys() & theirs.keys()]
        turned = any(a != b and math.prod(a) == math.prod(b) for a, b in shapes)
        return turned or bool(patterns - other and other - patterns)

    def _may_tie_otherwise(self, source: Checkpoint) -> bool:
        """Whether one stores a tensor outside the blocks that the other may have by another name.

        Not the head: whether that is the embedding is up to the merge.
        """
        if self._base.bare or source.bare:
            return False
        strays = self._base.tensors.keys() ^ source.tensors.keys()
        return any(stack(name) is None for name in strays - {self._base.head, source.head})

    @cached_property
    def _module(self) -> Any | None:
        from evomerge.weights.architecture.empty import empty_module

        return empty_module(self._base.folder)

    @cached_property
    def _ours(self) -> Loaded:
        return _loaded(self._module, self._base)

    def _load(self, source: Checkpoint) -> Loaded:
        """What a source becomes in memory, by the names of the base's class."""
        best: Loaded | None = None
        for module in self._modules(source):
            found = self._related(tied(module, source, _loaded(module, source)), module)
            if best is None or self._common(found) > self._common(best):
                best = found
            if not {*map(pattern, self._ours.arrays)} - {*map(pattern, best.arrays)}:
                break
        assert best is not None
        return best

    def _modules(self, source: Checkpoint) -> Iterator[Any]:
        """What may load a source: its own class, the base's of its own depth, the base's."""
        from evomerge.weights.architecture.empty import empty_module

        if source.config != self._base.config:
            for kind in (None, type(self._module).__name__):
                if (module := empty_module(source.folder, kind)) is not None:
                    yield module
        yield self._module

    @cached_property
    def _patterns(self) -> frozenset[str]:
        """Of the names in memory of the base's class, and of what it does not know of the base."""
        assert self._module is not None
        return frozenset(map(pattern, (*self._module.state_dict(), *self._ours.arrays)))

    def _common(self, found: Loaded) -> int:
        """How many tensors the base's class has, too."""
        return sum(pattern(name) in self._patterns for name in found.arrays)

    def _related(self, found: Loaded, module: Any) -> Loaded:
        """By names of the base's class, which differ in a prefix.

        A model with a head and its backbone alone do, and a language model alone and as a part.
        """
        assert self._module is not None
        prefixes = [f"{own.base_model_prefix}." for own in (module, self._module)]
        backbone = type(getattr(module, module.base_model_prefix, module))
        parts = [n for n, part in self._module.named_modules() if type(part) is backbone]
        inner = [f"{parts[0]}."] if len(parts) == 1 and parts[0] else []

        def related(name: str) -> str:
            bare = [name.removeprefix(prefix) for prefix in prefixes]
            near = [name, *bare, *(p + name for p in prefixes), *(p + bare[0] for p in inner)]
            return next((one for one in near if pattern(one) in self._patterns), name)

        return replace(found, arrays={related(n): array for n, array in found.arrays.items()})

    @cached_property
    def _stored(self) -> dict[str, Array]:
        """The base's tensors, made of those in memory."""
        return invert(self._ours.arrays)

    @property
    def _problems(self) -> list[str]:
        """Why the base itself cannot be taken to memory and back."""
        lost = [name for name in self._base.tensors if name not in self._stored]
        problems = [f"{self._base.folder}: {problem}" for problem in self._ours.problems]
        if lost and not problems:
            problems = [f"{self._base.folder}: a part of {listed(lost)} is not loaded"]
        return problems

    def _arrays(self, source: Checkpoint, theirs: Loaded, problems: list[str]) -> dict[str, Array]:
        """The source's tensors by the base's names; those that it has not under their own."""
        found: dict[str, Array] = {}
        used: set[int] = set()
        for name, array, known in self._wanted(theirs):
            needed = tensors_of(array)
            lacking = [own for own in needed if own not in known]
            if len(lacking) == len(needed):
                continue
            if lacking:
                problems.append(
                    f"{source.folder}: lacks {listed(lacking)}, of which the base's {name} is "
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
                stray = isinstance(array, Leaf) and pattern(name) not in self._patterns
                found.setdefault(tensors_of(array)[0] if stray else name, array)
        return found

    def _wanted(self, theirs: Loaded) -> Iterator[tuple[str, Array, Mapping[str, Array]]]:
        """Names of the base, what they are made of, and the source's tensors in memory.

        A block that the base has not, or not of that kind, is packed as the base's block of its
        kind is.
        """
        for name, array in self._stored.items():
            yield name, array, theirs.arrays
        used = {own for array in self._stored.values() for own in tensors_of(array)}
        left = {_block(name) for name in theirs.arrays.keys() - used}
        kinds: dict[Block, list[tuple[str, Array]]] = defaultdict(list)
        for name, array in self._stored.items():
            kinds[_block(tensors_of(array)[0])].append((name, array))
        for path, number in sorted(left - {_OUTSIDE}):
            fitting = []
            for kind, members in kinds.items():
                own = {n: renumber(n, number) for _, a in members for n in tensors_of(a)}
                if kind[0] == path and set(own.values()) <= theirs.arrays.keys():
                    fitting.append((members, {n: theirs.arrays[own[n]] for n in own}))
            if fitting:
                members, known = max(fitting, key=lambda pair: len(pair[0]))
                yield from ((renumber(name, number), array, known) for name, array in members)

    def _refuse_strays(self, view: Checkpoint, allowed: Sequence[str]) -> None:
        """Raise for tensors in the blocks of each model that the other has by no name.

        Raises:
            CheckpointError: there are such.
        """
        ours, theirs = _in_blocks(self._base), _in_blocks(view)
        strays = [n for key, n in theirs.items() if key not in ours and not is_allowed(n, allowed)]
        lacking = [n for key, n in ours.items() if key not in theirs and not is_allowed(n, allowed)]
        if strays and lacking:
            raise CheckpointError(
                f"{view.folder}: its blocks hold {listed(strays)}, those of the base "
                f"{self._base.folder} {listed(lacking)}, and Transformers declares no rule that "
                "makes one of the other. Name its tensors as the base's, or drop this source."
            )


def _loaded(module: Any, model: Checkpoint) -> Loaded:
    """What a class is filled with, and what it does not know as it is."""
    from evomerge.weights.architecture.loading import loaded

    found = loaded(module, {name: info.shape for name, info in model.tensors.items()})
    others = {n: Leaf(own, model.tensors[own].shape) for n, own in found.unknown.items()}
    return replace(found, arrays={**others, **found.arrays})


def _in_blocks(model: Checkpoint) -> dict[str, str]:
    """By pattern, the first tensor in a numbered block of the model, of a tower, too."""
    found: dict[str, str] = {}
    for name in model.tensors:
        if stack(name) is not None:
            found.setdefault(pattern(name), name)
    return found


def _block(name: str) -> Block:
    """The path and the number of the block that a tensor is in."""
    found = numbered(name)
    return _OUTSIDE if found is None else (found.stack, found.number)
