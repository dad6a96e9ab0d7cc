"""From values by role and block to mergekit's gradients and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from evomerge.errors import ExportError
from evomerge.recipes._mergekit_methods import FILTERS, pick
from evomerge.recipes.recipe import Scalar

Row = Scalar | list[Scalar]
Value = Callable[[str, int], Scalar]  # of one parameter, by role and block


class Placed(Protocol):
    """Where a tensor stands; see ``evomerge.weights.names.Place``."""

    @property
    def layer(self) -> int | None:
        """Index of its block, None outside the blocks."""

    @property
    def role(self) -> str:
        """One of `ROLES`."""


class Layout:
    """The tensors of a model by block and role.

    Args:
        places: tensor name to place.

    Attributes:
        layers: the number of blocks.
        places: tensor name to role and the block whose values it takes.
        spots: every distinct one of these.
    """

    def __init__(self, places: Mapping[str, Placed]) -> None:
        self.layers = 1 + max((p.layer for p in places.values() if p.layer is not None), default=0)
        # outside the blocks, even after them, both tools read the start of a gradient
        self.places = {name: (p.role, p.layer or 0) for name, p in places.items()}
        self.spots = list(dict.fromkeys(self.places.values()))
        self._names: dict[str, list[str]] = {}
        for name, place in places.items():
            self._names.setdefault(place.role, []).append(name)
        self._in_blocks = {p.role for p in places.values() if p.layer is not None}
        # a tied head has no tensor; mergekit shall know its value all the same
        self._names.setdefault("head", ["lm_head.weight"])

    def setting(self, value: Value) -> Any:
        """One value, a gradient, or filters with either, the last one for all other tensors.

        Raises:
            ExportError: no filter selects a role, or a list is read with a shift.
        """
        rest = self._row(value, "other")
        entries = []
        for role, names in self._names.items():
            row = self._row(value, role) if role in self._in_blocks else value(role, 0)
            start = rest[0] if isinstance(rest, list) else rest
            if row != (rest if role in self._in_blocks else start):
                entries += [{"filter": part, "value": row} for part in self._filters(role, names)]
        return [*entries, {"value": rest}] if entries else rest

    def _row(self, value: Value, role: str) -> Row:
        row = [value(role, layer) for layer in range(self.layers)]
        if all(item == row[0] for item in row):
            return row[0]
        read = [pick(row, layer, self.layers) for layer in range(self.layers)]
        if not isinstance(row[0], float) and read != row:
            raise ExportError(
                "mergekit's rounding errors shift this list of words or flags by a block. "
                "Give one value for all blocks."
            )
        return row

    def _filters(self, role: str, names: list[str]) -> list[str]:
        """Parts of tensor names that select these tensors and no others."""
        chosen = set(names)
        found = _cover(names, [name for name in self.places if name not in chosen])
        if found is None:
            shown = ", ".join(sorted({_pattern(name) for name in names})[:3])
            raise ExportError(
                f"no part of a name selects the {role} tensors alone ({shown}), as mergekit "
                f"needs. Give {role} the value of 'other'."
            )
        return found


def _pattern(name: str) -> str:
    """``model.layers.3.mlp.up.weight`` -> ``model.layers.#.mlp.up.weight``."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def _cover(names: Iterable[str], others: Iterable[str]) -> list[str] | None:
    """A few substrings that together hit every name and none of the others, or None.

    Those of `FILTERS` come first, so that they can be read back.
    """
    left, others = {_pattern(name) for name in names}, {_pattern(name) for name in others}
    found = []
    for candidate in [*FILTERS, *_parts(sorted(left))]:
        hits = {name for name in left if candidate in name}
        if hits and not any(candidate in other for other in others):
            found.append(candidate)
            left -= hits
        if not left:
            return found
    return None


def _parts(names: Iterable[str]) -> list[str]:
    """Runs of whole parts of the names, the shortest first."""
    runs: dict[str, int] = {}
    for name in names:
        for stretch in name.split("#"):
            parts = stretch.strip(".").split(".")
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    runs[".".join(parts[start:end])] = end - start
    return sorted(filter(None, runs), key=lambda run: (runs[run], len(run), run))
