"""From values by role and block to mergekit's gradients and filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Scalar
from evomerge.recipes._settings import is_filters
from evomerge.recipes.mergekit.filters import cover, pattern
from evomerge.recipes.mergekit.methods import pick
from evomerge.recipes.mergekit.spread import by_filter
from evomerge.recipes.places import Placed, precedes_blocks, renumber

Row = Scalar | list[Scalar]
Value = Callable[[str, int, str], Scalar]  # of one parameter, by role, block and tensor name


class Layout:
    """The tensors of a model by block and role.

    Args:
        places: tensor name to place.
        slices: how many blocks each slice has.

    Attributes:
        layers: the number of blocks.
        spots: every distinct role, block and name that values are asked for.
    """

    def __init__(self, places: Mapping[str, Placed], slices: Sequence[int] = ()) -> None:
        self.layers = 1 + max((p.layer for p in places.values() if p.layer is not None), default=0)
        self._slices = slices
        # outside the blocks, even after them, both tools read the start of a gradient
        self.spots = [(place.role, place.layer or 0, name) for name, place in places.items()]
        self._places = places
        self._names: dict[str, list[str]] = {}
        for name, place in places.items():
            self._names.setdefault(place.role, []).append(name)
        self._in_blocks = {p.role for p in places.values() if p.layer is not None}
        # a tied head has no tensor; mergekit shall know its value all the same
        self._names.setdefault("head", ["lm_head.weight"])

    def setting(self, value: Value, raw: Any = None) -> Any:
        """One value, a gradient, or filters with either, the last one for all other tensors.

        Args:
            raw: the setting in the recipe, which is mergekit's own form where it has filters; a
                word where the value depends on several settings with filters.

        Raises:
            ExportError: no filter selects a role, or a list is read with a shift.
        """
        if is_filters(raw):
            return [{**line, "value": self._checked(line["value"])} for line in raw]
        if raw == "by name":
            return self._by_name(value)
        rest = self._row(value, "other")
        entries = []
        for role, names in self._names.items():
            row = self._row(value, role) if role in self._in_blocks else value(role, 0, names[0])
            start = rest[0] if isinstance(rest, list) else rest
            if row != (rest if role in self._in_blocks else start):
                entries += [{"filter": part, "value": row} for part in self._filters(role, names)]
        return [*entries, {"value": rest}] if entries else rest

    def cut(self, setting: Any, number: int, value: Value) -> Any:
        """The part of a setting that is for one slice: there gradients are of its blocks alone."""
        start = sum(self._slices[:number])
        end = start + self._slices[number]
        if is_filters(setting):
            lines = [{**x, "value": _piece(x["value"], start, end)} for x in setting]
        else:
            lines = [{"value": _piece(setting, start, end)}]
        if number == len(self._slices) - 1:
            lines = [*self._after(lines, value), *lines]
        return lines[0]["value"] if len(lines) == 1 and "filter" not in lines[0] else lines

    def _after(self, lines: list[dict[str, Any]], value: Value) -> list[dict[str, Any]]:
        """Lines for the tensors after the blocks, which would read the start of the last slice."""
        wrong: dict[Scalar, list[str]] = {}
        for name, place in self._places.items():
            if place.layer is None and not precedes_blocks(name, place):
                fits = (line["value"] for line in lines if line.get("filter", "") in name)
                read = next(fits, None)
                wanted = value(place.role, 0, name)
                if (read[0] if isinstance(read, list) else read) != wanted:
                    wrong.setdefault(wanted, []).append(name)
        found = []
        for wanted, names in wrong.items():
            parts = cover(names, [name for name in self._places if name not in names]) or names
            found += [{"filter": part, "value": wanted} for part in parts]
        return found

    def _by_name(self, value: Value) -> Any:
        """For values that depend on names in more than one way."""
        blocks: dict[str, Row] = {}
        outer: dict[str, Scalar] = {}
        for name, place in self._places.items():
            if place.layer is None:
                outer[name] = value(place.role, 0, name)
            else:
                names = [renumber(name, layer) for layer in range(self.layers)]
                row = [value(place.role, layer, at) for layer, at in enumerate(names)]
                blocks[names[0]] = row[0] if all(item == row[0] for item in row) else row
        try:
            return by_filter(blocks, outer)
        except ValueError as error:
            raise ExportError(f"{error}, as mergekit needs. Give all tensors one value.") from None

    def _row(self, value: Value, role: str) -> Row:
        row = [value(role, layer, "") for layer in range(self.layers)]
        return row[0] if all(item == row[0] for item in row) else self._checked(row)

    def _checked(self, row: Any) -> Any:
        """The same list, unless mergekit reads other values from it."""
        if not isinstance(row, list) or isinstance(row[0], float):
            return row
        pieces, start = self._slices or [self.layers], 0
        for length in pieces:
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
        chosen = set(names)
        found = cover(names, [name for name in self._places if name not in chosen])
        if found is None:
            shown = ", ".join(sorted({pattern(name) for name in names})[:3])
            raise ExportError(
                f"no part of a name selects the {role} tensors alone ({shown}), as mergekit "
                f"needs. Give {role} the value of 'other'."
            )
        return found


def _piece(value: Any, start: int, end: int) -> Any:
    if not isinstance(value, list):
        return value
    piece = value[start:end]
    return piece[0] if all(item == piece[0] for item in piece) else piece
