"""One parameter of a mergekit YAML, slice by slice, as one setting of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.recipes import ROLES, Scalar
from evomerge.recipes.mergekit.filters import (
    FILTERS,
    ValueByBlock,
    ValuesByName,
    by_filter,
    by_name,
    collapsed,
    commonest,
    first,
)
from evomerge.recipes.mergekit.read_settings import FilterLine
from evomerge.recipes.places import Placed, Places, precedes_blocks, renumber

_TARGETS = (*ROLES, "final_norm")
_OUTER = ("embedding", "head", "final_norm")


class SliceLines(NamedTuple):
    """What decides a parameter in one slice.

    Attributes:
        length: how many blocks it has; None for those of the model, which may never be asked for.
        lines: the first that fits a tensor counts; None where the source takes no part.
        shift: how far the source's block numbers are from the output's.
    """

    length: int | None
    lines: tuple[FilterLine, ...] | None
    shift: int = 0

    def line(self, name: str) -> FilterLine | None:
        """The line that mergekit reads for a tensor."""
        return next((line for line in self.lines or () if line.fits(name)), None)


def joined(
    slices: Sequence[SliceLines], layers: Callable[[], int], places: Callable[[], Places]
) -> Any:
    """The setting of a recipe that says the same.

    Args:
        layers: the number of blocks of the model, asked for if there is a gradient.
        places: of its tensors, asked for if lines differ by slice or are for single blocks.

    Raises:
        ValueError: no part of a name selects the tensors that need a value of their own.
    """
    present = [one.lines for one in slices if one.lines is not None]
    filters = [line.filter for line in present[0]]
    alike = all([line.filter for line in lines] == filters for lines in present)
    by_number = any(part.isdigit() for f in filters if f is not None for part in f.split("."))
    if alike and not (by_number and any(one.shift for one in slices)):
        rows = [_row(slices, number, layers) for number in range(len(filters))]
        if all(
            first(row) == before.start == after.start
            for row, before, after in zip(rows, present[0], present[-1], strict=True)
        ):
            return _written(list(zip(filters, rows, strict=True)))
    return _by_tensor(slices, layers, places())


def _row(slices: Sequence[SliceLines], number: int, layers: Callable[[], int]) -> ValueByBlock:
    """What one line says for every block."""
    values = [one.lines[number].value for one in slices if one.lines is not None]
    if not isinstance(values[0], list) and all(value == values[0] for value in values):
        return values[0]
    return collapsed([
        None if one.lines is None else one.lines[number].at(step, length)
        for one, step, length in _steps(slices, layers)
    ])  # fmt: skip


def _steps(
    slices: Sequence[SliceLines], layers: Callable[[], int]
) -> list[tuple[SliceLines, int, int]]:
    """Of every output block its slice, its number there, and how many blocks that has."""
    lengths = [layers() if one.length is None else one.length for one in slices]
    return [
        (one, step, length)
        for one, length in zip(slices, lengths, strict=True)
        for step in range(length)
    ]


def _by_tensor(slices: Sequence[SliceLines], layers: Callable[[], int], places: Places) -> Any:
    """The setting from what mergekit reads for every tensor."""
    steps = _steps(slices, layers)

    def value(name: str, place: Placed, layer: int) -> Scalar | None:
        if place.layer is None:
            line = slices[0 if precedes_blocks(name, place) else -1].line(name)
            return None if line is None else line.start
        one, step, length = steps[layer]
        # of a source's own parameter mergekit looks at the source's tensor name
        line = one.line(renumber(name, layer + one.shift))
        return None if line is None else line.at(step, length)

    values = by_name(places, len(steps), value)
    roles = {renumber(n, 0) if p.layer is not None else n: p.role for n, p in places.items()}
    others = [row for name, row in values.blocks.items() if roles[name] == "other"]
    rest = (others or [commonest(values.blocks.values() or values.outer.values())])[0]
    return _by_role(values, roles, rest) or by_filter(values)


def _written(lines: Sequence[tuple[str | None, ValueByBlock]]) -> Any:
    """Lines as roles, where their filters select these, or as they are."""
    rows: dict[str, ValueByBlock] = {}
    for part, row in lines:
        for target in _TARGETS:
            if part is None or target in FILTERS.get(part, ()):
                rows.setdefault(target, row)
    if all(f is None or f in FILTERS for f, _ in lines) and rows.keys() | {"other"} == {*_TARGETS}:
        blocks = {target: row for target, row in rows.items() if target not in _OUTER}
        outer = {target: first(rows[target]) for target in _OUTER}
        roles = dict(zip(rows, rows, strict=True)) | {"final_norm": "norm"}
        table = _by_role(ValuesByName(blocks, outer), roles, rows.get("other"))
        if table is not None:
            return table
    return [{"value": row} if f is None else {"filter": f, "value": row} for f, row in lines]


def _by_role(
    values: ValuesByName, roles: Mapping[str, str], rest: ValueByBlock | None
) -> dict[str, ValueByBlock] | None:
    """A table of roles, or None where tensors of one role differ.

    Args:
        roles: of all tensors.
        rest: for ``other``; None where there is no such key.
    """
    table: dict[str, ValueByBlock] = {}
    for name, row in values.blocks.items():
        if table.setdefault(roles[name], row) != row:
            return None
    for name, value in values.outer.items():
        if rest is not None and first(rest) == value:
            table.setdefault(roles[name], rest)
        if first(table.setdefault(roles[name], value)) != value:
            return None
    return table if rest is None else {"other": rest} | table
