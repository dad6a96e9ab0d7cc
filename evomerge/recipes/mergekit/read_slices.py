"""One parameter of a mergekit YAML, slice by slice, as one setting of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.recipes import Scalar
from evomerge.recipes.mergekit.filters import (
    FILTERS,
    TYPICAL,
    ValueByBlock,
    ValuesByName,
    by_filter,
    by_name,
    collapsed,
    commonest,
    first,
)
from evomerge.recipes.mergekit.read_settings import FilterLine
from evomerge.recipes.places import Place, Places, precedes_blocks, renumber


class SliceLines(NamedTuple):
    """The lines that decide a parameter in one slice of the output.

    Attributes:
        length: number of blocks; None for all of the model's, so that it need not be opened.
        lines: of these, the first that fits a tensor; None where the source takes no part.
        shift: the source's number of a block less the output's.
    """

    length: int | None
    lines: tuple[FilterLine, ...] | None
    shift: int = 0

    def line(self, name: str) -> FilterLine | None:
        """The line that mergekit reads for a tensor."""
        return next((line for line in self.lines or () if line.fits(name)), None)


class _Block(NamedTuple):
    """One block of the output: its slice, its number there, and how many blocks that has."""

    slice_: SliceLines
    step: int
    steps: int

    def read(self, line: FilterLine | None) -> Scalar | None:
        return None if line is None else line.at(self.step, self.steps)


def joined(
    slices: Sequence[SliceLines], layers: Callable[[], int], places: Callable[[], Places]
) -> Any:
    """The setting of a recipe that gives every tensor the value that mergekit reads.

    Args:
        layers: gives the number of blocks of the model; called if there is a gradient.
        places: gives those of its tensors; called if the lines of the slices cannot be joined one
            by one, as their filters differ or select by block number.

    Raises:
        ValueError: no part of a name selects the tensors that need a value of their own.
    """
    values = [line.value for one in slices for line in one.lines or ()]
    has_gradient = any(isinstance(value, list) for value in values)
    blocks: list[_Block] = []
    for one in slices:
        length = one.length or (layers() if has_gradient else 1)
        blocks += [_Block(one, step, length) for step in range(length)]
    lines = _line_by_line(slices, blocks)
    if lines is None:
        return _by_tensor(slices, blocks, places())
    return _by_typical_role(lines) or [
        {"value": row} if part is None else {"filter": part, "value": row} for part, row in lines
    ]


def _line_by_line(
    slices: Sequence[SliceLines], blocks: Sequence[_Block]
) -> list[tuple[str | None, ValueByBlock]] | None:
    """Each filter with its values; None where lines of different slices do not belong together."""
    present = [one.lines for one in slices if one.lines is not None]
    filters = [line.filter for line in present[0]]
    if any([line.filter for line in lines] != filters for lines in present):
        return None
    by_number = any(part.isdigit() for f in filters if f is not None for part in f.split("."))
    if by_number and any(one.shift for one in slices):
        return None
    joined_lines = []
    for n, part in enumerate(filters):
        row = collapsed([b.read(b.slice_.lines[n] if b.slice_.lines else None) for b in blocks])
        if not first(row) == present[0][n].start == present[-1][n].start:
            return None  # before or after the blocks mergekit reads something else
        joined_lines.append((part, row))
    return joined_lines


def _by_tensor(slices: Sequence[SliceLines], blocks: Sequence[_Block], places: Places) -> Any:
    """The setting from the value of every tensor: roles if possible, or else filters."""

    def value(name: str, place: Place, layer: int) -> Scalar | None:
        if place.layer is None:
            line = slices[0 if precedes_blocks(name, place) else -1].line(name)
            return None if line is None else line.start
        block = blocks[layer]
        # mergekit applies the filters of a source's parameters to the source's tensor names
        return block.read(block.slice_.line(renumber(name, layer + block.slice_.shift)))

    values = by_name(places, len(blocks), value)
    roles = {renumber(n, 0) if p.layer is not None else n: p.role for n, p in places.items()}
    others = [row for name, row in values.blocks.items() if roles[name] == "other"]
    rest = (others or [commonest(values.blocks.values() or values.outer.values())])[0]
    return _by_role(values, roles, rest) or by_filter(values)


def _by_typical_role(lines: Sequence[tuple[str | None, ValueByBlock]]) -> Any:
    """Role to value, or None where some filter selects no role, or some role has no value."""
    if any(part not in (None, *FILTERS) for part, _ in lines):
        return None
    table: dict[str, ValueByBlock] = {}
    for role, name in TYPICAL.items():
        rows = [row for part, row in lines if part is None or part in name]
        if not rows:
            return None
        table[role] = rows[0]
    outer = {role: first(table.pop(role)) for role in ("embedding", "head", "final_norm")}
    roles = {role: role for role in TYPICAL} | {"final_norm": "norm"}
    rest = next((row for part, row in lines if part is None), None)
    return _by_role(ValuesByName(table, outer), roles, rest)


def _by_role(
    values: ValuesByName, roles: Mapping[str, str], rest: ValueByBlock | None
) -> dict[str, ValueByBlock] | None:
    """Role to value, or None where tensors of one role differ.

    Args:
        roles: tensor name to role.
        rest: the value of ``other``; None for no such key.
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
