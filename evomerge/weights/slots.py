"""How the tensors of a base and its sources line up, name by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import FLOATS
from evomerge.weights.names import Place


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the merged model and where it comes from.

    Attributes:
        place: block index and role.
        shape: after vocabularies are aligned.
        base: name of the base's tensor, None where the base has none (rule R8).
        inputs: source to the name of its tensor, for the sources that have it.
        stored: safetensors dtype of the base's tensor, or of the first source's.
        aligned: whether rows are tokens that are matched by their strings (rule R9).
        key: what its random numbers depend on: its name, except for the head of an untied
            model that is filled from tied ones, which must repeat the embedding.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    base: str | None
    inputs: Mapping[str, str]
    stored: str
    aligned: bool
    key: str

    @property
    def floating(self) -> bool:
        """Whether it is merged; other tensors are copied from the base."""
        return self.stored in FLOATS


def line_up(
    base: Checkpoint, sources: Mapping[str, Checkpoint], *, untied: bool, align: bool
) -> tuple[Slot, ...]:
    """A slot for every tensor that any of the models has.

    Args:
        base: the base.
        sources: name to source.
        untied: whether the merged model has a head of its own (rule R10).
        align: whether rows are matched by token strings.
    """
    owners: dict[str, Checkpoint] = {}
    for checkpoint in (base, *sources.values()):
        for name in checkpoint.tensors:
            owners.setdefault(name, checkpoint)
    return tuple(
        _slot(name, owner, base, sources, align)
        for name, owner in owners.items()
        if untied or name != owner.head  # a tied model's stored head is no tensor of its own
    )


def _slot(
    name: str, owner: Checkpoint, base: Checkpoint, sources: Mapping[str, Checkpoint], align: bool
) -> Slot:
    is_head = name == owner.head
    own = _tensor_name(base, name, is_head)
    found = {source: _tensor_name(c, name, is_head) for source, c in sources.items()}
    inputs = {source: tensor for source, tensor in found.items() if tensor is not None}
    info = base.tensors[own] if own is not None else owner.tensors[name]
    aligned = align and own in base.token_tables and base.vocabulary is not None
    return Slot(name, owner.places[name], info.shape, own, inputs, info.dtype, aligned, name)


def _tensor_name(checkpoint: Checkpoint, name: str, is_head: bool) -> str | None:
    """The checkpoint's tensor for ``name``; a tied head is read from the embedding."""
    if is_head and checkpoint.tied:
        return checkpoint.embedding
    return name if name in checkpoint.tensors else None


def refill(
    slots: tuple[Slot, ...], origin: Mapping[str, str | None], *, head: str | None
) -> tuple[Slot, ...]:
    """The same slots fed by other names.

    Args:
        slots: from `line_up`.
        origin: each new name to the source that it stands for, None for the base.
        head: the embedding's name where the head repeats it; None where it does not.
    """
    filled = [_refill_one(slot, origin) for slot in slots]
    embedding = next((slot for slot in filled if slot.name == head), None)
    if embedding is None:
        return tuple(filled)
    return tuple(replace(embedding, name=s.name) if s.base == embedding.name else s for s in filled)


def _refill_one(slot: Slot, origin: Mapping[str, str | None]) -> Slot:
    found = {n: slot.inputs.get(o) if o else slot.base for n, o in origin.items()}
    return replace(slot, inputs={name: tensor for name, tensor in found.items() if tensor})
