"""How Transformers holds the tensors of a checkpoint in memory, traced through its own rules.

Files and memory name tensors differently, and some are joined, split or turned when they are read:
the experts of a block are one tensor in memory and hundreds in files. What is declared for that in
``transformers.conversion_mapping`` is carried out here on names and shapes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.weights.architecture.arrays import (
    Array,
    Leaf,
    Shape,
    cut,
    join,
    leaves,
    reshape,
    swap,
)
from evomerge.weights.architecture.empty import empty_model


@dataclass(frozen=True, slots=True)
class Loaded:
    """The tensors of a checkpoint as Transformers holds them.

    Attributes:
        arrays: by name in memory, what they are made of: tensors of the files.
        unknown: names in the files of tensors that the model does not have, by the names that they
            would have in it.
        problems: a sentence for each tensor that cannot be made.
    """

    arrays: dict[str, Array]
    unknown: dict[str, str]
    problems: list[str]


def loaded(model: Any, shapes: Mapping[str, Shape]) -> Loaded:
    """What a Transformers model is filled with from the tensors of files.

    Follows ``convert_and_load_state_dict_in_model`` of Transformers.

    Args:
        model: without weights, perhaps.
        shapes: of the files' tensors, by name.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

    rules = get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    rename = _Renaming(model, [r for r in rules if isinstance(r, WeightRenaming)], converters)
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    found = Loaded({}, {}, [])
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in sorted(shapes, key=dot_natural_key):
        target, pattern = rename(name)
        if target not in rename.live:
            found.unknown[rename.without_prefix(target)] = name
        elif pattern is not None:
            groups[target].append((name, pattern))
        elif target in found.arrays:
            first = ", ".join(leaf.name for leaf in leaves(found.arrays[target]))
            found.problems.append(f"{first} and {name} are both {target} in memory")
        else:
            found.arrays[target] = Leaf(name, shapes[name])
    for target, members in groups.items():
        rule = deepcopy(by_pattern[members[0][1]])
        for name, pattern in members:
            rule.add_tensor(target, name, pattern, _Traced(Leaf(name, shapes[name])))
        try:
            made = rule.convert(target, model=model, config=model.config)
            arrays = {n: v[0] if isinstance(v, list) else v for n, v in made.items()}
            found.arrays.update({name: value.array for name, value in arrays.items()})
        except Exception as error:  # whatever an operation makes of these shapes
            found.problems.append(
                f"{_listed([n for n, _ in members])}: cannot be {target}: {error}"
            )
    found.problems.extend(_wrong_shapes(found.arrays, rename.live))
    return found


def unread(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Names of the files' tensors that a config's model has no place for.

    Transformers reports only some of them: it is silent on those that a family is known to have.
    None are named where it does not build the model, or cannot fill it.
    """
    try:
        found = loaded(empty_model(config), shapes)
    except Exception:  # whatever makes Transformers not build it
        return frozenset()
    if found.problems:
        return frozenset()
    read = (leaf.name for array in found.arrays.values() for leaf in leaves(array))
    return frozenset(shapes.keys() - read)


def saved(model: Any, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What ``save_pretrained`` writes of a Transformers model.

    Args:
        model: without weights, perhaps.
        arrays: its tensors in memory, by name.
    """
    from transformers.core_model_loading import revert_weight_conversion

    traced = {name: _Traced(array) for name, array in arrays.items()}
    written: Mapping[str, Any] = revert_weight_conversion(model, traced)
    return {name: value.array for name, value in written.items()}


class _Renaming:
    """Names in files to names in memory."""

    def __init__(self, model: Any, renamings: Sequence[Any], converters: Sequence[Any]) -> None:
        self.live: Mapping[str, Any] = model.state_dict()
        self._prefix: str = model.base_model_prefix
        self._renamings, self._converters = renamings, converters

    def __call__(self, name: str) -> tuple[str, str | None]:
        """The name in memory, and the pattern of the conversion that the tensor is a part of."""
        from transformers.core_model_loading import rename_source_key

        near = {"base_model_prefix": self._prefix, "meta_state_dict": self.live}
        target, pattern = rename_source_key(name, self._renamings, self._converters, **near)
        if target not in self.live:  # named as in memory, which rules may not know
            plain, _ = rename_source_key(name, [], [], **near)
            if plain in self.live:
                return plain, None
        return target, pattern

    def without_prefix(self, name: str) -> str:
        return name.removeprefix(f"{self._prefix}.")


class _Traced:
    """Stands for a tensor in the operations of Transformers, and records what they do."""

    def __init__(self, array: Array) -> None:
        self.array = array

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        own = _FUNCTIONS.get(function)
        if own is None:
            raise NotImplementedError(f"{getattr(function, '__name__', function)} of a tensor")
        return own(*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.array.shape)

    @property
    def ndim(self) -> int:
        return len(self.array.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return math.prod(self.array.shape)

    def contiguous(self) -> _Traced:
        return self

    def reshape(self, *shape: Any) -> _Traced:
        sizes = list(shape[0] if isinstance(shape[0], Sequence) else shape)
        if -1 in sizes:
            sizes[sizes.index(-1)] = self.numel() // -math.prod(sizes)
        return _Traced(reshape(self.array, tuple(sizes)))

    view = reshape

    def transpose(self, dim0: int, dim1: int) -> _Traced:
        return _Traced(swap(self.array, dim0 % self.ndim, dim1 % self.ndim))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[_Traced, ...]:
        axis = dim % self.ndim
        size = self.array.shape[axis]
        step = -(-size // chunks)
        return tuple(
            _Traced(cut(self.array, axis, start, min(step, size - start)))
            for start in range(0, size, step)
        )

    def unbind(self, dim: int = 0) -> tuple[_Traced, ...]:
        axis = dim % self.ndim
        return tuple(part._squeezed(axis) for part in self.chunk(self.shape[axis], axis))

    def squeeze(self) -> _Traced:
        return self.reshape([size for size in self.shape if size != 1])

    def _squeezed(self, axis: int) -> _Traced:
        return self.reshape([*self.shape[:axis], *self.shape[axis + 1 :]])


def _stack(tensors: Sequence[_Traced], dim: int = 0) -> _Traced:
    axis = dim % (tensors[0].ndim + 1)
    parts = [t.reshape([*t.shape[:axis], 1, *t.shape[axis:]]) for t in tensors]
    return _cat(parts, axis)


def _cat(tensors: Sequence[_Traced], dim: int = 0) -> _Traced:
    return _Traced(join([t.array for t in tensors], dim % tensors[0].ndim))


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.stack: _stack,
    torch.cat: _cat,
    torch.chunk: _Traced.chunk,
    torch.unbind: _Traced.unbind,
    torch.reshape: _Traced.reshape,
    torch.squeeze: _Traced.squeeze,
    torch.transpose: lambda tensor, dim0, dim1: tensor.transpose(dim0, dim1),
}


def _wrong_shapes(arrays: Mapping[str, Array], live: Mapping[str, Any]) -> list[str]:
    """A sentence for each tensor that is made of others and has another shape than the model's."""
    return [
        f"{_listed([leaf.name for leaf in leaves(array)])}: make {name} of {array.shape}, but it "
        f"is {tuple(live[name].shape)} by config.json"
        for name, array in arrays.items()
        if not isinstance(array, Leaf)
        if name in live and tuple(live[name].shape) != array.shape
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
