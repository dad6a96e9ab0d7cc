"""From the values of a parameter at every tensor to mergekit's gradients and filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.errors import ExportError
from evomerge.recipes import Scalar
from evomerge.recipes._settings import is_filters
from evomerge.recipes.mergekit.filters import (
    ValueByBlock,
    by_filter,
    by_name,
    collapsed,
    cover,
    first,
    pattern,
)
from evomerge.recipes.mergekit.read_settings import pick
from evomerge.recipes.places import Place, precedes_blocks


class Spot(NamedTuple):
    """Where a recipe is asked for a value; see `Recipe.setting`."""

    role: str
    layer: int
    tensor: str


Value = Callable[[Spot], Scalar]  # of one parameter


class SettingWriter:
    """Writes the settings of parameters for the tensors of one model.

    Args:
        places: tensor name to place.
        slices: how many blocks each slice has.

    Attributes:
        layers: the number of blocks.
        spots: one for every tensor.
    """

    def __init__(self, places: Mapping[str, Place], slices: Sequence[int] = ()) -> None:
        self.layers = 1 + max((p.layer for p in places.values() if p.layer is not None), default=0)
        # outside the blocks, even after them, both tools read the start of a gradient
        self.spots = [Spot(place.role, place.layer or 0, name) for name, place in places.items()]
        self._places, self._slices = places, slices
        self._in_blocks = {p.role for p in places.values() if p.layer is not None}
        self._names: dict[str, list[str]] = {}
        for name, place in places.items():
            self._names.setdefault(place.role, []).append(name)
        # a tied head has no tensor; mergekit shall know its value all the same
        self._names.setdefault("head", ["lm_head.weight"])

    def by_role(self, value: Value) -> Any:
        """A scalar, a gradient, or filters with either, the last one for all other tensors.

        Raises:
            ExportError: no filter selects a role, or mergekit reads a list with a shift.
        """
        rest = self._row(value, "other")
        lines: list[dict[str, Any]] = []
        for role, names in self._names.items():
            if role in self._in_blocks:
                row, others = self._row(value, role), rest
            else:
                row, others = value(Spot(role, 0, names[0])), first(rest)
            if row != others:
                lines += [{"filter": part, "value": row} for part in self._filters(role, names)]
        return [*lines, {"value": rest}] if lines else rest

    def by_tensor(self, value: Value) -> Any:
        """The same for values that depend on tensor names, and not on roles alone."""
        values = by_name(
            self._places, self.layers, lambda name, place, i: value(Spot(place.role, i, name))
        )
        try:
            return by_filter(values)
        except ValueError as error:
            raise ExportError(f"{error}, as mergekit needs. Give all tensors one value.") from None

    def by_line(self, lines: Sequence[Mapping[str, Any]]) -> Any:
        """The same for a recipe's own list of filters and values."""
        return [{**line, "value": self._checked(line["value"])} for line in lines]

    def cut(self, setting: Any, number: int, value: Value) -> Any:
        """The part of a setting that is for one slice: there gradients are of its blocks alone."""
        start = sum(self._slices[:number])
        end = start + self._slices[number]
        lines = setting if is_filters(setting) else [{"value": setting}]
        lines = [{**line, "value": _piece(line["value"], start, end)} for line in lines]
        if number == len(self._slices) - 1:
            lines = [*self._after(lines, value), *lines]
        return lines[0]["value"] if len(lines) == 1 and "filter" not in lines[0] else lines

    def _after(self, lines: list[dict[str, Any]], value: Value) -> list[dict[str, Any]]:
        """Lines for the tensors after the blocks, which would read the start of the last slice."""
        wrong: dict[Scalar, list[str]] = {}
        for name, place in self._places.items():
            if place.layer is None and not precedes_blocks(name, place):
                fits = (line["value"] for line in lines if line.get("filter", "") in name)
                read: Any = next(fits, None)
                wanted = value(Spot(place.role, 0, name))
                if first(read) != wanted:
                    wrong.setdefault(wanted, []).append(name)
        added = []
        for wanted, names in wrong.items():
            parts = cover(names, [name for name in self._places if name not in names]) or names
            added += [{"filter": part, "value": wanted} for part in parts]
        return added

    def _row(self, value: Value, role: str) -> ValueByBlock:
        row = [value(Spot(role, layer, "")) for layer in range(self.layers)]
        return self._checked(collapsed(row))

    def _checked(self, row: ValueByBlock) -> ValueByBlock:
        """The same list, unless mergekit reads other values from it."""
        if not isinstance(row, list) or isinstance(row[0], float):
            return row
        start = 0
        for length in self._slices or [self.layers]:
            piece = row[start : start + length]
            start += length
            if [pick(piece, layer, length) for layer in range(length)] != piece:
                raise ExportError(
                    "mergekit's rounding errors shift this list of words or flags by a block. "
                    "Give one value for all blocks."
                )
        return row

    def _filters(self, role: str, names: list[str]) -> list[str]:
        """Parts of tensor names that select these tensors and no others."""
        parts = cover(names, self._places.keys() - set(names))
        if parts is None:
            examples = ", ".join(sorted({pattern(name) for name in names})[:3])
            raise ExportError(
                f"no part of a name selects the {role} tensors alone ({examples}), as mergekit "
                f"needs. Give {role} the value of 'other'."
            )
        return parts


def has_gradients(setting: Any) -> bool:
    """Whether a setting of mergekit's has gradients."""
    if is_filters(setting):
        return any(isinstance(line["value"], list) for line in setting)
    return isinstance(setting, list)


def _piece(value: ValueByBlock, start: int, end: int) -> ValueByBlock:
    return collapsed(value[start:end]) if isinstance(value, list) else value
