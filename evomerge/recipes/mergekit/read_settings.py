"""Settings of a mergekit YAML: filters, gradients and where a value is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Scalar
from evomerge.recipes.mergekit.methods import interpolate, pick

Gradient = Scalar | list[Scalar]
Scope = tuple[str, Any]  # where a ``parameters`` stands, and what it holds
Problem = Callable[[str, str], None]  # takes a place in the YAML and a sentence


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


class Line(NamedTuple):
    """One line of a setting: the part of tensor names that it is for, and its value.

    Attributes:
        filter: None for all tensors.
        value: a scalar or a gradient.
    """

    filter: str | None
    value: Gradient

    def fits(self, name: str) -> bool:
        """Whether mergekit reads this line for a tensor, if no earlier one fits."""
        return self.filter is None or self.filter in name

    def at(self, step: int, steps: int) -> Scalar:
        """The value for one of the blocks of a slice."""
        if not isinstance(self.value, list):
            return self.value
        if isinstance(self.value[0], float):
            return interpolate([float(item) for item in self.value], step, steps)
        return pick(self.value, step, steps)

    @property
    def start(self) -> Scalar:
        """The value for the tensors outside the blocks."""
        return self.value[0] if isinstance(self.value, list) else self.value


def read_lines(
    name: str, default: Scalar, scopes: Sequence[Scope], problem: Problem
) -> tuple[Line, ...]:
    """What decides a parameter, the first line that fits a tensor counts.

    Args:
        name: mergekit's, of the parameter.
        default: says whether numbers or flags are expected.
        scopes: where it may stand, the first that has a value for a tensor counts.
        problem: takes what is wrong.
    """
    lines: list[Line] = []
    for path, scope in scopes:
        if isinstance(scope, dict) and name in scope:
            lines += _read(scope[name], f"{path}.{name}", default, problem)
    last = next((n for n, line in enumerate(lines) if line.filter is None), len(lines))
    return tuple(lines[: last + 1])


def _read(setting: Any, path: str, default: Scalar, problem: Problem) -> Iterator[Line]:
    """The lines of one setting, the default in place of what is wrong."""
    is_flag = isinstance(default, bool)
    if isinstance(setting, dict):
        setting = [setting]
    if not (isinstance(setting, list) and any(isinstance(item, dict) for item in setting)):
        value = _gradient(setting, path, is_flag, problem)
        yield Line(None, default if value is None else value)
        return
    for number, item in enumerate(setting):
        at = f"{path}.{number}"
        keys = check_keys(item, at, ("filter", "value"), problem)
        if not keys:
            continue
        selected = keys.get("filter")
        value = _gradient(keys.get("value"), f"{at}.value", is_flag, problem)
        if selected is not None and not isinstance(selected, str):
            problem(f"{at}.filter", f"expected a part of tensor names, got {selected!r}")
        else:
            part = None if selected in (None, "", "*") else selected
            yield Line(part, default if value is None else value)


def _gradient(value: Any, path: str, is_flag: bool, problem: Problem) -> Gradient | None:
    """A scalar or a list of them; numbers as floats, as in YAML 1.1 ``1e-3`` is a word."""
    if not isinstance(value, list):
        return _scalar(value, path, is_flag, problem)
    if not value:
        problem(path, "an empty list")
        return None
    items = [_scalar(item, path, is_flag, problem) for item in value]
    found = [item for item in items if item is not None]
    if len(found) < len(items):
        return None
    return found[0] if all(item == found[0] for item in found) else found


def _scalar(value: Any, path: str, is_flag: bool, problem: Problem) -> Scalar | None:
    if is_flag:
        if value in (True, False):
            return bool(value)
        problem(path, f"expected true or false, got {value!r}")
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        problem(path, f"expected a number or a list of numbers, got {value!r}")
        return None
