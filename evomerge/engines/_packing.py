"""How the tensors of a plan, which are named and packed as in files, fill a live model's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evomerge.errors import PlanError
from evomerge.weights.architecture.arrays import (
    Array,
    Cut,
    Joined,
    Leaf,
    Reshaped,
    Shape,
    Swapped,
    invert,
    tensors_of,
)
from evomerge.weights.layouts.lazy_arrays import LazyArray
from evomerge.weights.models import Models


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the values of a tensor go that is no stretch of memory in the live model.

    Attributes:
        array: the tensor, made of the live ones.
        live: by name.
    """

    array: Array
    live: Mapping[str, Tensor]

    def fill(self, values: Tensor) -> None:
        """Overwrite the live tensors' elements with the tensor's."""
        self._fill(self.array, values)

    def _fill(self, array: Array, values: Tensor) -> None:
        if isinstance(array, Joined):
            for part, start in zip(array.parts, array.starts, strict=True):
                length = part.shape[array.axis]
                self._fill(part, values.narrow(array.axis, start, length))
        elif isinstance(array, Swapped):
            self._fill(array.of, values.transpose(*array.axes))
        elif isinstance(array, Reshaped):
            self._fill(array.of, values.reshape(array.of.shape))
        else:
            view(array, self.live).copy_(values)


def view(array: Array, live: Mapping[str, Tensor]) -> Tensor:
    """A part of a live tensor, in its memory.

    Raises:
        RuntimeError: it is no part of one.
    """
    if isinstance(array, Leaf):
        return live[array.name]
    if isinstance(array, Joined):
        raise RuntimeError("parts of several tensors")
    of = view(array.of, live)
    if isinstance(array, Cut):
        return of.narrow(array.axis, array.start, array.shape[array.axis])
    if isinstance(array, Swapped):
        return of.transpose(*array.axes)
    return of.view(array.shape)


def live_arrays(
    models: Models, model: Any, shapes: Mapping[str, Shape] | None = None
) -> dict[str, Array]:
    """The tensors of a live Transformers model by name, made of those of a plan.

    Those of the plan that the model does not have are left as they are, for `require_fit` to name.

    Args:
        shapes: of other tensors that it is made of, by name.

    Raises:
        PlanError: tensors that Transformers cannot pack as the model needs them.
    """
    live = model.state_dict()
    if shapes is None:
        shapes = {slot.name: slot.shape for slot in models.slots}
    if all(name in live and live[name].shape == shape for name, shape in shapes.items()):
        return {name: Leaf(name, shape) for name, shape in shapes.items()}
    from evomerge.weights.architecture.loading import loaded

    found = loaded(model, shapes)
    if found.problems:
        raise PlanError([f"{models.base.folder}: {problem}." for problem in found.problems])
    return {**found.arrays, **{name: Leaf(name, shapes[name]) for name in found.unknown.values()}}


def file_arrays(models: Models, model: Any) -> dict[str, Array]:
    """The tensors as files have them, made of those of a plan that are named as in memory.

    Empty where a plan's are named otherwise: then they are from files as they are.

    Args:
        model: the Transformers model, without weights.

    Raises:
        PlanError: as `live_arrays`.
    """
    from evomerge.weights.architecture.loading import saved

    arrays = live_arrays(models, model)
    files = saved(model, arrays)
    prefix = f"{model.base_model_prefix}."
    strays = [slot.name for slot in models.slots if slot.name not in files]
    in_memory = any(name in arrays or prefix + name in arrays for name in strays)
    return files if in_memory else {}


def repacked(
    tensors: Iterator[tuple[str, Tensor]], files: Mapping[str, Array]
) -> Iterator[tuple[str, Tensor]]:
    """Name and value of what tensors make, each as soon as all its parts are there.

    Args:
        files: by name, what is made; the names of tensors that nothing is made of stay.
    """
    lacking = {name: set(tensors_of(array)) for name, array in files.items()}
    uses: dict[str, list[str]] = defaultdict(list)
    for name, parts in lacking.items():
        for part in parts:
            uses[part].append(name)
    held: dict[str, Tensor] = {}
    for name, value in tensors:
        if name not in uses:
            yield name, value
            continue
        held[name] = value
        for made in uses[name]:
            lacking[made].discard(name)
            if not lacking[made]:
                yield made, LazyArray(files[made], held.__getitem__).whole()
        for part in [part for part in held if not any(lacking[made] for made in uses[part])]:
            del held[part]


def targets(arrays: Mapping[str, Array], live: Mapping[str, Tensor]) -> dict[str, Tensor | Packed]:
    """Where the values of every tensor of a plan go: a stretch of memory, or several.

    Args:
        arrays: from `live_arrays`.
        live: the model's tensors by name.
    """
    found: dict[str, Tensor | Packed] = {}
    for name, array in invert(arrays).items():
        found[name] = Packed(array, live)
        if len(tensors_of(array)) == 1:
            try:
                stretch = view(array, live)
            except RuntimeError:
                continue
            if stretch.is_contiguous():
                found[name] = stretch
    return found
