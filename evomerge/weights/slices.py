"""The tensors that a model gives to a merged one whose blocks are stacked anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from evomerge.recipes import BASE
from evomerge.recipes.places import Place, precedes_blocks, renumber
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.names import stack

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
