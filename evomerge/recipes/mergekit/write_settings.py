"""The parameters of a recipe at every tensor, and as mergekit's gradients and filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Scalar
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
from evomerge.recipes.mergekit.methods import METHODS, NEEDED, RESCALED, MergeMethod
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
        # a tied head has no tensor, but mergekit must know its value
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
        """A scalar, a gradient or filters, for values that differ among tensors of one role."""
        values = by_name(
            self._places, self.layers, lambda name, place, i: value(Spot(place.role, i, name))
        )
        try:
            return by_filter(values)
        except ValueError as error:
            raise ExportError(f"{error}, as mergekit needs. Give all tensors one value.") from None

    def by_line(self, lines: Sequence[Mapping[str, Any]]) -> Any:
        """Filters for mergekit, from a recipe's own list of filters and values."""
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
        """The row as given; raises `ExportError` where mergekit reads other values from it."""
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


class Values:
    """The parameters of one recipe.

    Args:
        method: mergekit's for the recipe's operator.
        settings: writes them for the merged model.

    Attributes:
        inverse: whether kept elements are divided by the density in some tensor.
        problems: why parameters could not be written.
    """

    def __init__(self, recipe: Recipe, method: MergeMethod, settings: SettingWriter) -> None:
        self.recipe, self.method, self.settings = recipe, method, settings
        self.problems: list[str] = []
        self._defaults = {"negative": "subtract", **method.defaults, **method.fixed}
        divides = "rescale" in method.shared and method.name not in RESCALED
        self.inverse = divides and "inverse" in self.every("rescale")

    def at(self, name: str, source: str | None, spot: Spot) -> Scalar:
        """One parameter's value for one tensor."""
        own = self.recipe.setting(name, source, *spot)
        return self._defaults[name] if own is None else own

    def every(self, name: str, source: str | None = None) -> list[Scalar]:
        """One parameter's values, without repeats."""
        return list(dict.fromkeys(self.at(name, source, spot) for spot in self.settings.spots))

    def is_given(self, name: str, source: str | None) -> bool:
        """Whether a parameter must be written."""
        setting = self._setting(name, source)
        of_others = isinstance(setting, dict) and any(key in self.recipe.sources for key in setting)
        return name in NEEDED or (setting is not None and not of_others)

    def write(self, name: str, source: str | None, number: int | None = None) -> Any:
        """A parameter as mergekit writes it; None, and a problem noted, where it cannot.

        Args:
            number: of the slice whose part is wanted; None for the whole model.
        """
        value = self._value(name, source)
        folded = [name]
        if name == "weight" and self.inverse:
            folded += ["density", "rescale"]
        own = [self._setting(one, source) for one in folded]
        try:
            if not any(map(is_filters, own)):
                setting = self.settings.by_role(value)
            elif len(folded) == 1 and name != "rescale":
                setting = self.settings.by_line(own[0])
            else:
                setting = self.settings.by_tensor(value)
        except ExportError as error:
            self.problems += [f"parameters.{name}: {problem}" for problem in error.problems]
            return None
        return setting if number is None else self.settings.cut(setting, number, value)

    def _value(self, name: str, source: str | None) -> Value:
        """Mergekit's value for the parameter at every tensor."""

        def value(spot: Spot) -> Scalar:
            own = self.at(name, source, spot)
            if name == "rescale":
                return own == "l1"
            if name == "weight" and self.inverse and self.at("rescale", None, spot) == "inverse":
                return float(own) / float(self.at("density", source, spot))
            return own

        return value

    def _setting(self, name: str, source: str | None) -> Any:
        setting = self.recipe.parameters.get(name)
        if source is not None and isinstance(setting, dict) and source in setting:
            return setting[source]
        return setting

    def needs_dialect(self) -> bool:
        """Whether the YAML would be read to other values without ``dialect: mergekit``."""
        given, marked = self.recipe.parameters, self.method.dialect
        if "rescale" in METHODS[self.method.name].shared and "l1" in self.every("rescale"):
            return True
        if given.get("axis") is not None or any(given.get(n) == v for n, v in marked.items()):
            return True
        voting = self.recipe.sources if self.method.elects else ()
        return any(float(w) < 0 for source in voting for w in self.every("weight", source))


def has_gradients(setting: Any) -> bool:
    """Whether a setting of mergekit's has gradients."""
    if is_filters(setting):
        return any(isinstance(line["value"], list) for line in setting)
    return isinstance(setting, list)


def _piece(value: ValueByBlock, start: int, end: int) -> ValueByBlock:
    return collapsed(value[start:end]) if isinstance(value, list) else value
