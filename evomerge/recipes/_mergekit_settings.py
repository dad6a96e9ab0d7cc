"""Settings of a mergekit YAML: filters, gradients and where a value is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.recipes._mergekit_methods import FILTERS, Method, interpolate, pick, their_name
from evomerge.recipes.recipe import ROLES, Scalar
from evomerge.registry import did_you_mean

Row = Scalar | list[Scalar]
Scope = tuple[str, Any]  # where a ``parameters`` stands, and what it holds
Problem = Callable[[str, str], None]  # takes a place in the YAML and a sentence

_TARGETS = (*ROLES, "final_norm")
_NEEDED = ("weight", "t")  # those without a default in mergekit


def check_keys(
    content: Any,
    path: str,
    known: Sequence[str],
    problem: Problem,
    refused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The mapping, its unknown keys reported; an empty one where it is none."""
    if not isinstance(content, dict):
        problem(path, f"expected keys and values, got {content!r}")
        return {}
    for key in content:
        at = f"{path}.{key}".strip(".")
        if refused and key in refused:
            problem(at, f"{refused[key]}.")
        elif key not in known:
            problem(at, f"unknown key.{did_you_mean(str(key), known)}")
    return content


class _Condition(NamedTuple):
    """One line of a setting: the targets that it is for, and its value."""

    targets: frozenset[str]
    row: Row


class Settings:
    """Reads one parameter after the other.

    Args:
        method: whose parameters they are.
        layers: the number of blocks, asked for if there is a gradient.
        problem: takes what is wrong.
    """

    def __init__(self, method: Method, layers: Callable[[], int], problem: Problem) -> None:
        self.method, self.layers, self._problem = method, layers, problem

    def table(self, name: str, scopes: list[Scope], title: str) -> dict[str, Row] | None:
        """Role to value or list of values; None where the YAML leaves the default.

        Args:
            name: ours, of the parameter.
            scopes: where it may stand, the first that has a value for a tensor counts.
            title: for messages.
        """
        conditions = [
            condition
            for path, scope in scopes
            if isinstance(scope, dict) and their_name(name) in scope
            for condition in self._conditions(
                name, scope[their_name(name)], f"{path}.{their_name(name)}"
            )
        ]
        rows: dict[str, Row] = {}
        for condition in conditions:
            for target in _TARGETS:
                if target in condition.targets:
                    rows.setdefault(target, condition.row)
        missing = [target for target in _TARGETS if target not in rows and target != "other"]
        if missing and name in _NEEDED:
            self._problem("parameters", f"{title}: no value for {', '.join(missing)}")
        if name in _NEEDED or not rows:
            return self._roles(rows, title) if rows and not missing else None
        return self._roles(
            {target: rows.get(target, self._their_default(name)) for target in _TARGETS}, title
        )

    def _their_default(self, name: str) -> Scalar:
        return True if name == "rescale" else self.method.defaults[name]

    def _roles(self, rows: dict[str, Row], title: str) -> dict[str, Row]:
        """Every role's row, told apart from ``other`` only where it differs."""
        final = rows.pop("final_norm")
        if _start(final) != _start(rows["norm"]):
            self._problem(
                "parameters",
                f"{title}: the norm after the blocks has {_start(final)!r}, the first norm in them "
                f"{_start(rows['norm'])!r}. A recipe has one value for both: filter 'norm'.",
            )
        other = rows.get("other")
        for role in ("embedding", "head"):
            theirs = _start(rows[role])
            same = other is not None and _start(other) == theirs
            rows[role] = other if other is not None and same else theirs
        return rows

    def _conditions(self, name: str, setting: Any, path: str) -> Iterator[_Condition]:
        """A setting line by line, the first that fits a tensor counts."""
        if isinstance(setting, dict):
            setting = [setting]
        if not (isinstance(setting, list) and any(isinstance(item, dict) for item in setting)):
            row = self._row(name, setting, path)
            if row is not None:
                yield _Condition(frozenset(_TARGETS), row)
            return
        for number, item in enumerate(setting):
            at = f"{path}.{number}"
            keys = check_keys(item, at, ("filter", "value"), self._problem)
            if not keys:
                continue
            selected, value = keys.get("filter"), keys.get("value")
            row = self._row(name, value, f"{at}.value")
            if selected is None or selected == "*":
                targets = frozenset(_TARGETS)
            elif isinstance(selected, str) and selected in FILTERS:
                targets = FILTERS[selected]
            else:
                self._problem(
                    f"{at}.filter", f"{selected!r} selects no role. Known: {', '.join(FILTERS)}, *."
                )
                continue
            if row is not None:
                yield _Condition(targets, row)

    def _row(self, name: str, value: Any, path: str) -> Row | None:
        """A scalar, or a gradient with one value per block."""
        is_flag = isinstance(self._their_default(name), bool)
        if not isinstance(value, list):
            return self._scalar(value, path, is_flag)
        items = [self._scalar(item, path, is_flag) for item in value]
        found = [item for item in items if item is not None]
        if len(found) < len(items):
            return None
        if not found:
            self._problem(path, "an empty list")
            return None
        layers = self.layers()
        if is_flag:
            return [pick(found, layer, layers) for layer in range(layers)]
        numbers = [float(item) for item in found]
        return [interpolate(numbers, layer, layers) for layer in range(layers)]

    def _scalar(self, value: Any, path: str, is_flag: bool) -> Scalar | None:
        if is_flag:
            if value in (True, False):
                return bool(value)
            self._problem(path, f"expected true or false, got {value!r}")
            return None
        try:
            if isinstance(value, bool):
                raise TypeError
            return float(value)  # YAML reads 1e-3 as a word, mergekit as a number
        except (TypeError, ValueError):
            self._problem(path, f"expected a number or a list of numbers, got {value!r}")
            return None


def _start(row: Row) -> Scalar:
    return row[0] if isinstance(row, list) else row
