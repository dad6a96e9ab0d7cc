"""One parameter of a mergekit YAML, slice by slice, as one setting of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from evomerge.recipes import ROLES, Scalar
from evomerge.recipes.mergekit.filters import FILTERS, cover
from evomerge.recipes.mergekit.read_settings import Line
from evomerge.recipes.places import Places, precedes_blocks, renumber

Row = Scalar | list[Scalar]

_TARGETS = (*ROLES, "final_norm")


class Stretch(NamedTuple):
    """What decides a parameter in one slice.

    Attributes:
        length: how many blocks it has; None for those of the model, which may never be asked for.
        lines: the first that fits counts; None where the source takes no part.
        shift: how far the source's block numbers are from the output's.
    """

    length: int | None
    lines: tuple[Line, ...] | None
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Spread:
    """Turns stretches into settings.

    Args:
        layers: the number of blocks of the model, asked for if there is a gradient.
        places: of its tensors, asked for if lines differ by slice or are for single blocks.
    """

    layers: Callable[[], int]
    places: Callable[[], Places]

    def setting(self, stretches: Sequence[Stretch]) -> Any:
        """The setting of a recipe that says the same.

        Raises:
            ValueError: no part of a name selects the tensors that need a value of their own.
        """
        present = [s for s in stretches if s.lines is not None]
        lines = present[0].lines or ()
        plain = all(not isinstance(line.value, list) for line in lines)
        by_number = any(_numbered(line.filter) for line in lines)
        if all(s.lines == lines and not (by_number and s.shift) for s in present) and plain:
            return _written([(line.filter, line.value) for line in lines])
        same = all(_filters(s) == _filters(present[0]) for s in present)
        if same and not (by_number and any(s.shift for s in present)):
            rows = [self._row(stretches, number) for number in range(len(lines))]
            starts = [
                {first(row), *(_at(s, number).start for s in (present[0], present[-1]))}
                for number, row in enumerate(rows)
            ]
            if all(len(start) == 1 for start in starts):
                return _written([(line.filter, r) for line, r in zip(lines, rows, strict=True)])
        return self._by_name(stretches)

    def _lengths(self, stretches: Sequence[Stretch]) -> list[int]:
        return [self.layers() if s.length is None else s.length for s in stretches]

    def _row(self, stretches: Sequence[Stretch], number: int) -> Row:
        """One line's values over all blocks."""
        values: list[Scalar | None] = []
        for stretch, length in zip(stretches, self._lengths(stretches), strict=True):
            if stretch.lines is None:
                values += [None] * length
            else:
                values += [stretch.lines[number].at(step, length) for step in range(length)]
        return _filled(values)

    def _by_name(self, stretches: Sequence[Stretch]) -> Any:
        """Tensor by tensor, as mergekit does, and then put together again."""
        places = self.places()
        blocks: dict[str, Row] = {}
        outer: dict[str, Scalar] = {}
        for name, place in places.items():
            if place.layer is None:
                stretch = stretches[0 if precedes_blocks(name, place) else -1]
                line = _fitting(stretch, name)
                if line is not None:
                    outer[name] = line.start
            elif (generic := renumber(name, 0)) not in blocks:
                blocks[generic] = self._row_of(stretches, name)
        roles = {renumber(n, 0) if p.layer is not None else n: p.role for n, p in places.items()}
        return by_role(blocks, outer, roles) or by_filter(blocks, outer)

    def _row_of(self, stretches: Sequence[Stretch], name: str) -> Row:
        """The values of a tensor of every block."""
        values: list[Scalar | None] = []
        for stretch, length in zip(stretches, self._lengths(stretches), strict=True):
            for step in range(length):
                # of a source's own parameter mergekit looks at the source's tensor name
                line = _fitting(stretch, renumber(name, len(values) + stretch.shift))
                values.append(None if line is None else line.at(step, length))
        return _filled(values)


def by_role(
    blocks: Mapping[str, Row], outer: Mapping[str, Scalar], roles: Mapping[str, str]
) -> Any:
    """A table of roles, or None where tensors of one role differ.

    Args:
        blocks: tensor name, as in block 0, to its values by block.
        outer: names of the tensors outside the blocks to their values.
        roles: of all of them.
    """
    found: dict[str, list[Row]] = {}
    for name, row in blocks.items():
        found.setdefault(roles[name], []).append(row)
    table = {role: rows[0] for role, rows in found.items()}
    if any(row != rows[0] for rows in found.values() for row in rows):
        return None
    rest = table.get("other", _commonest(blocks.values()) if blocks else None)
    for name, value in outer.items():
        role = roles[name]
        if role not in table and rest is not None and first(rest) == value:
            table[role] = rest
        if first(table.setdefault(role, value)) != value:
            return None
    return {"other": rest if rest is not None else next(iter(table.values()))} | table


def by_filter(blocks: Mapping[str, Row], outer: Mapping[str, Scalar]) -> Any:
    """Lines with filters, the last one for most tensors.

    Raises:
        ValueError: no part of a name selects the tensors of one line alone.
    """
    rest = _commonest(list(blocks.values()) or list(outer.values()))
    groups: dict[Hashable, list[str]] = {}
    for name, row in blocks.items():
        if row != rest:
            groups.setdefault(_key(row), []).append(name)
    for name, value in outer.items():
        if value != first(rest):
            groups.setdefault(_key(value), []).append(name)
    everything = {**outer, **blocks}
    lines: list[dict[str, Any]] = []
    for chosen in groups.values():
        found = cover(chosen, [name for name in everything if name not in chosen])
        if found is None:
            raise ValueError(f"no part of a name selects {', '.join(chosen[:3])} alone")
        lines += [{"filter": part, "value": everything[chosen[0]]} for part in found]
    return [*lines, {"value": rest}] if lines else rest


def first(row: Row) -> Scalar:
    """The value for tensors outside the blocks."""
    return row[0] if isinstance(row, list) else row


def _written(lines: Sequence[tuple[str | None, Row]]) -> Any:
    """Lines as roles, where their filters select these, or as they are."""
    table = _roles(lines) if all(f is None or f in FILTERS for f, _ in lines) else None
    if table is not None:
        return table
    return [{"value": row} if f is None else {"filter": f, "value": row} for f, row in lines]


def _roles(lines: Sequence[tuple[str | None, Row]]) -> dict[str, Row] | None:
    """Every role's row; None where the norm after the blocks has a value of its own."""
    rows: dict[str, Row] = {}
    for part, row in lines:
        for target in _TARGETS:
            if part is None or target in FILTERS[part]:
                rows.setdefault(target, row)
    if any(target not in rows for target in _TARGETS if target != "other"):
        return None
    if first(rows.pop("final_norm")) != first(rows["norm"]):
        return None
    other = rows.get("other")
    for role in ("embedding", "head"):
        theirs = first(rows[role])
        rows[role] = other if other is not None and first(other) == theirs else theirs
    return rows


def _fitting(stretch: Stretch, name: str) -> Line | None:
    return next((line for line in stretch.lines or () if line.fits(name)), None)


def _filters(stretch: Stretch) -> list[str | None]:
    return [line.filter for line in stretch.lines or ()]


def _at(stretch: Stretch, number: int) -> Line:
    return (stretch.lines or ())[number]


def _numbered(part: str | None) -> bool:
    """Whether a filter is for single blocks."""
    return part is not None and any(piece.isdigit() for piece in part.split("."))


def _filled(values: Sequence[Scalar | None]) -> Row:
    """A row; blocks in which a source takes no part repeat a neighbour's value."""
    known = [value for value in values if value is not None]
    last = known[0] if known else 0.0
    row: list[Scalar] = []
    for value in values:
        last = last if value is None else value
        row.append(last)
    return row[0] if all(value == row[0] for value in row) else row


def _commonest(rows: Collection[Row]) -> Row:
    counts = Counter(_key(row) for row in rows)
    return next(row for row in rows if _key(row) == counts.most_common(1)[0][0])


def _key(row: Row) -> Hashable:
    return tuple(row) if isinstance(row, list) else row
