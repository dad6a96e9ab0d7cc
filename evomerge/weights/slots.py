"""Which tensors of a base and its sources make each tensor of the merged model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import BASE
from evomerge.recipes.places import Place, precedes_blocks, renumber
from evomerge.weights.architecture.names import stack
from evomerge.weights.architecture.token_tables import with_rows
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import FLOATS

Range = tuple[int, int]
Slices = Sequence[Mapping[str, Range]]


class TensorSource(NamedTuple):
    """A model's tensor, and its place in the merged model."""

    tensor: str
    place: Place


class BlockRanges(NamedTuple):
    """The blocks that a model gives to the merged one.

    Attributes:
        ranges: for every slice the model's own blocks ``[start, end)``, None where it gives none.
        lengths: blocks of every slice.
    """

    ranges: tuple[Range | None, ...]
    lengths: tuple[int, ...]

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Pairs of block numbers: in the merged model, in this model."""
        start = 0
        for own, length in zip(self.ranges, self.lengths, strict=True):
            if own is not None:
                yield from ((start + step, own[0] + step) for step in range(length))
            start += length

    def takes_part(self, name: str, place: Place) -> bool:
        """Whether the model gives the merged model's tensor of this name, if it has one.

        Tensors used before the blocks belong to the first slice, those used after them to the
        last, as in mergekit.
        """
        if place.layer is None:
            return self.ranges[0 if precedes_blocks(name, place) else -1] is not None
        return any(layer == place.layer for layer, _ in self.blocks())


def block_ranges(name: str | None, slices: Slices) -> BlockRanges | None:
    """The blocks that a source gives, or the base where ``name`` is None; None without slices.

    In a slice that does not name the base, it gives the blocks of the slice's first model.
    """
    if not slices:
        return None
    first = [next(iter(named.values())) for named in slices]
    lengths = tuple(end - start for start, end in first)
    if name is not None:
        return BlockRanges(tuple(named.get(name) for named in slices), lengths)
    # a source of that name is the base too
    own = [named.get(BASE, other) for named, other in zip(slices, first, strict=True)]
    return BlockRanges(tuple(own), lengths)


def tensor_sources(checkpoint: Checkpoint, part: BlockRanges | None) -> dict[str, TensorSource]:
    """Name in the merged model to the model's tensor, for all tensors that it gives.

    Args:
        part: the blocks that it gives; None leaves every tensor where it is.
    """
    if part is None:
        return {name: TensorSource(name, place) for name, place in checkpoint.places.items()}
    blocks: dict[int, list[str]] = defaultdict(list)
    for name, place in checkpoint.places.items():
        if place.layer is not None:
            blocks[place.layer].append(name)
    stacks = {stack(name) for names in blocks.values() for name in names}
    found: dict[str, TensorSource] = {}
    for name, place in checkpoint.places.items():
        if place.layer is not None or stack(name) in stacks:
            continue  # blocks for multi-token prediction: the merged blocks have their numbers
        if part.takes_part(name, place):
            found[name] = TensorSource(name, place)
    for layer, own in part.blocks():
        for name in blocks[own]:
            role = checkpoint.places[name].role
            found[renumber(name, layer)] = TensorSource(name, Place(layer, role))
    return found


def range_problems(
    slices: Slices, base: Checkpoint, sources: Mapping[str, Checkpoint]
) -> Iterator[str]:
    """A sentence for each range that goes beyond a model's last block."""
    for number, named in enumerate(slices):
        for name, (start, end) in named.items():
            layers = {BASE: base, **sources}[name].layers
            if end > layers:
                yield (
                    f"slices.{number}.{name}: the range [{start}, {end}) ends outside {name}, "
                    f"which has {layers} blocks. End it at {layers} or before."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor of the merged model and where it comes from.

    Attributes:
        place: index of its block in the merged model, and role.
        shape: after vocabularies are aligned.
        base: name of the base's tensor, None where the base has none (rule R8).
        inputs: source to the name of its tensor, for the sources that have it.
        stored: safetensors dtype of the base's tensor, or of the first source's.
        token_axis: the axis whose items are tokens that are matched by their strings (rule R9);
            None where nothing is matched.
        key: what its random numbers depend on: its name, except for the head of an untied
            model that is filled from tied ones, which must repeat the embedding.
        merged: False where the recipe's ``modules`` leave it as the base has it.
        lacking: the sources that take part in its block but do not have it.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    base: str | None
    inputs: Mapping[str, str]
    stored: str
    token_axis: int | None
    key: str
    merged: bool = True
    lacking: tuple[str, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether it is merged; other tensors are copied from the base."""
        return self.stored in FLOATS


def align_tensors(
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    slices: Slices,
    *,
    untied: bool,
    rows: int | None = None,
) -> tuple[Slot, ...]:
    """A slot for every tensor that any of the models gives to the merged one.

    Args:
        slices: of the recipe; valid for these models.
        untied: whether the merged model has a head of its own (rule R10).
        rows: tokens of the merged model, where rows are matched by token strings.
    """
    models = (base, *sources.values())
    head = next((model.head for model in models if model.head is not None), None)
    head = head if untied else None
    ranges = {name: block_ranges(name, slices) for name in sources}
    of_base = _given(base, block_ranges(None, slices), head)
    of_sources = {name: _given(model, ranges[name], head) for name, model in sources.items()}
    owners: dict[str, tuple[Checkpoint, TensorSource]] = {}
    for model, given in zip(models, (of_base, *of_sources.values()), strict=True):
        for name, tensor in given.items():
            owners.setdefault(name, (model, tensor))

    def slot(name: str, owner: Checkpoint, first: TensorSource) -> Slot:
        info = owner.tensors[first.tensor]
        axis = owner.token_tables.get(first.tensor) if rows is not None else None
        return Slot(
            name=name,
            place=first.place,
            shape=info.shape if axis is None else with_rows(info.shape, axis, rows or 0),
            base=of_base[name].tensor if name in of_base else None,
            inputs={
                source: given[name].tensor for source, given in of_sources.items() if name in given
            },
            stored=info.dtype,
            token_axis=axis,
            key=name,
            lacking=tuple(
                source
                for source, part in ranges.items()
                if name not in of_sources[source]
                and (part is None or part.takes_part(name, first.place))
            ),
        )

    return tuple(slot(name, *owner) for name, owner in owners.items())


def _given(
    model: Checkpoint, part: BlockRanges | None, head: str | None
) -> dict[str, TensorSource]:
    """Name in the merged model to the tensor that a model gives to it.

    Args:
        head: name of the merged model's head where it has one of its own.
    """
    found = tensor_sources(model, part)
    if not model.tied:
        return found
    # a tied model's stored head is no tensor of its own
    found.pop(model.head or "", None)
    takes_part = part is None or part.ranges[-1] is not None
    if head is not None and model.embedding is not None and takes_part:
        found[head] = TensorSource(model.embedding, Place(None, "head"))
    return found


def keep_outside(slots: Sequence[Slot], modules: Sequence[str]) -> tuple[Slot, ...]:
    """Copies of the slots, of which those under none of the prefixes keep the base's tensors.

    Args:
        modules: prefixes of names, as in the recipe; without any, all slots are merged.
    """
    if not modules:
        return tuple(slots)
    return tuple(
        slot
        if any(_under(slot.name, prefix) for prefix in modules)
        else replace(slot, inputs={}, merged=False, lacking=())
        for slot in slots
        if slot.base is not None or any(_under(slot.name, prefix) for prefix in modules)
    )


def module_problems(slots: Sequence[Slot], modules: Sequence[str]) -> list[str]:
    """A sentence for each prefix that no tensor has."""
    # a suggestion goes no deeper than the blocks: there are thousands of names in them
    paths = [(stack(slot.name) or slot.name).split(".") for slot in slots]
    known = dict.fromkeys(".".join(path[: end + 1]) for path in paths for end in range(len(path)))
    return [
        f"modules: no tensor is under {prefix!r}.{did_you_mean(prefix, known)}"
        for prefix in modules
        if not any(_under(slot.name, prefix) for slot in slots)
    ]


def _under(name: str, prefix: str) -> bool:
    return f"{name}.".startswith(f"{prefix.rstrip('.')}.")


def refill(
    slots: tuple[Slot, ...], origin: Mapping[str, str | None], *, head: str | None
) -> tuple[Slot, ...]:
    """Copies of the slots, to be filled by other sources.

    Args:
        slots: from `align_tensors`.
        origin: each new source to the old one that it is, None for the base.
        head: the embedding's name if the head repeats it, else None.
    """
    filled = list(slots)
    for number, slot in enumerate(slots):
        if slot.merged:
            found = {n: slot.inputs.get(o) if o else slot.base for n, o in origin.items()}
            filled[number] = replace(slot, inputs={n: name for n, name in found.items() if name})
    embedding = next((slot for slot in filled if slot.name == head), None)
    if embedding is None:
        return tuple(filled)
    return tuple(replace(embedding, name=s.name) if s.base == embedding.name else s for s in filled)
