"""How the tensors of a base and its sources line up, name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.plugins.registry import did_you_mean
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import FLOATS
from evomerge.weights.names import Place, stack
from evomerge.weights.slices import Cut, Seat, Slices, cut, seats


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the merged model and where it comes from.

    Attributes:
        place: index of its block in the merged model, and role.
        shape: after vocabularies are aligned.
        base: name of the base's tensor, None where the base has none (rule R8).
        inputs: source to the name of its tensor, for the sources that have it.
        stored: safetensors dtype of the base's tensor, or of the first source's.
        aligned: whether rows are tokens that are matched by their strings (rule R9).
        key: what its random numbers depend on: its name, except for the head of an untied
            model that is filled from tied ones, which must repeat the embedding.
        merged: False for what the recipe's ``modules`` leave as the base has it.
        lacking: the sources that would take part but do not have it.
    """

    name: str
    place: Place
    shape: tuple[int, ...]
    base: str | None
    inputs: Mapping[str, str]
    stored: str
    aligned: bool
    key: str
    merged: bool = True
    lacking: tuple[str, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether it is merged; other tensors are copied from the base."""
        return self.stored in FLOATS


class Lineup:
    """What every model gives to the merged one.

    Args:
        base: the base.
        sources: name to source.
        slices: of the recipe; valid for these models.
        untied: whether the merged model has a head of its own (rule R10).

    Attributes:
        base: name in the merged model to the base's tensor.
        sources: source to the same.
    """

    def __init__(
        self, base: Checkpoint, sources: Mapping[str, Checkpoint], slices: Slices, *, untied: bool
    ) -> None:
        self._models = (base, *sources.values())
        self._cuts = {name: cut(name, slices) for name in sources}
        base_cut = cut(None, slices)
        head = next((c.head for c in self._models if c.head is not None), None) if untied else None
        self._head = head
        self.base = self._seats(base, base_cut)
        self.sources = {name: self._seats(sources[name], part) for name, part in self._cuts.items()}

    def _seats(self, checkpoint: Checkpoint, part: Cut | None) -> dict[str, Seat]:
        found = seats(checkpoint, part)
        if not checkpoint.tied:
            return found
        # a tied model's stored head is no tensor of its own
        found.pop(checkpoint.head or "", None)
        takes_part = part is None or part.ranges[-1] is not None
        if self._head is not None and checkpoint.embedding is not None and takes_part:
            found[self._head] = Seat(checkpoint.embedding, Place(None, "head"))
        return found

    def slots(self, rows: int | None = None) -> tuple[Slot, ...]:
        """A slot for every tensor that any of the models gives.

        Args:
            rows: tokens of the merged model, where rows are matched by token strings.
        """
        owners: dict[str, tuple[Checkpoint, Seat]] = {}
        views = (self.base, *self.sources.values())
        for checkpoint, view in zip(self._models, views, strict=True):
            for name, seat in view.items():
                owners.setdefault(name, (checkpoint, seat))
        return tuple(self._slot(name, *owner, rows) for name, owner in owners.items())

    def _slot(self, name: str, owner: Checkpoint, seat: Seat, rows: int | None) -> Slot:
        info = owner.tensors[seat.tensor]
        aligned = rows is not None and seat.tensor in owner.token_tables
        return Slot(
            name,
            seat.place,
            (rows, *info.shape[1:]) if aligned and rows is not None else info.shape,
            self.base[name].tensor if name in self.base else None,
            {source: view[name].tensor for source, view in self.sources.items() if name in view},
            info.dtype,
            aligned,
            name,
            lacking=tuple(
                source
                for source, part in self._cuts.items()
                if name not in self.sources[source]
                and (part is None or part.takes_part(name, seat.place))
            ),
        )


def keep_outside(slots: Sequence[Slot], modules: Sequence[str]) -> tuple[Slot, ...]:
    """The slots with those outside the prefixes taken from the base alone.

    Args:
        modules: of the recipe; none leaves all as they are.
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
    """Prefixes that no tensor has."""
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
    """The same slots fed by other names.

    Args:
        slots: from `Lineup.slots`.
        origin: each new name to the source that it stands for, None for the base.
        head: the embedding's name where the head repeats it; None where it does not.
    """
    filled = [_refill_one(slot, origin) if slot.merged else slot for slot in slots]
    embedding = next((slot for slot in filled if slot.name == head), None)
    if embedding is None:
        return tuple(filled)
    return tuple(replace(embedding, name=s.name) if s.base == embedding.name else s for s in filled)


def _refill_one(slot: Slot, origin: Mapping[str, str | None]) -> Slot:
    found = {n: slot.inputs.get(o) if o else slot.base for n, o in origin.items()}
    return replace(slot, inputs={name: tensor for name, tensor in found.items() if tensor})
