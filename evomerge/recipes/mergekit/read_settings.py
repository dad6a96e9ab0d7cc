"""Settings of a mergekit YAML: filters, gradients and where a value is looked up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from evomerge.errors import Problem, RecipeError, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Scalar

T = TypeVar("T")

# as pydantic reads them for mergekit
_FLAGS = {
    True: (True, "true", "t", "yes", "y", "on", "1"),
    False: (False, "false", "f", "no", "n", "off", "0"),
}

Gradient = Scalar | list[Scalar]
Parameters = tuple[str, Any]  # where in the YAML ``parameters`` stand, and what they are


class Problems:
    """What is wrong with one YAML, gathered so that all of it is reported at once.

    Attributes:
        notes: sentences about what mergekit ignores, and so has no effect here.
    """

    def __init__(self, where: str) -> None:
        self._where, self._problems = where, list[Problem]()
        self.notes: list[str] = []

    def add(self, path: str, text: str) -> None:
        """Note what is wrong at a place in the YAML."""
        self._problems.append(Problem((path,), text, file=self._where))

    def note(self, path: str, text: str) -> None:
        """Note what has no effect at a place in the YAML."""
        sentence = str(Problem((path,), text, file=self._where))
        if sentence not in self.notes:
            self.notes.append(sentence)

    def stop(self) -> None:
        """Raise a `RecipeError` if anything was noted."""
        if self._problems:
            raise RecipeError(dict.fromkeys(self._problems))

    def check_keys(self, content: Any, path: str, known: Sequence[str]) -> dict[str, Any]:
        """The mapping, its unknown keys noted, which mergekit ignores; an empty one for null.

        What is neither is reported.
        """
        if content is None:
            return {}
        if not isinstance(content, dict):
            self.add(path, f"expected keys and values, got {shown(content)}")
            return {}
        for key in content:
            if key not in known:
                text = f"mergekit ignores this key.{_near(str(key), known)}"
                self.note(f"{path}.{key}".strip("."), text)
        return content


def _near(word: str, known: Sequence[str]) -> str:
    """`` Did you mean 'x'?``, if anything is near."""
    guess = did_you_mean(word, known)
    return guess if guess.startswith(" Did") else ""


class FilterLine(NamedTuple):
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
    name: str, default: Scalar, scopes: Sequence[Parameters], problems: Problems
) -> tuple[FilterLine, ...]:
    """The lines that decide a parameter; the first one that fits a tensor gives its value.

    Args:
        name: mergekit's, of the parameter.
        default: stands in for what is wrong; a flag where flags are expected, else a number.
        scopes: where the parameter may stand, the innermost first.
    """
    lines: list[FilterLine] = []
    for path, scope in scopes:
        # mergekit reads on where a list is empty
        if isinstance(scope, dict) and name in scope and scope[name] != []:
            lines += _read(scope[name], f"{path}.{name}", default, problems)
    last = next((n for n, line in enumerate(lines) if line.filter is None), len(lines))
    return tuple(lines[: last + 1])


def _read(setting: Any, path: str, default: Scalar, problems: Problems) -> Iterator[FilterLine]:
    if isinstance(setting, dict):
        setting = [setting]
    if not (isinstance(setting, list) and any(isinstance(item, dict) for item in setting)):
        yield FilterLine(None, _gradient(setting, path, default, problems))
        return
    for number, item in enumerate(setting):
        at = f"{path}.{number}"
        if not (keys := problems.check_keys(item, at, ("filter", "value"))):
            problems.add(at, f"expected the keys filter and value, got {shown(item)}")
            continue
        value = _gradient(keys.get("value"), f"{at}.value", default, problems)
        part = keys.get("filter")
        if part is None or isinstance(part, str):
            yield FilterLine(None if part in (None, "", "*") else part, value)
        else:
            problems.add(f"{at}.filter", f"expected a part of tensor names, got {shown(part)}")


def _gradient(value: Any, path: str, default: Scalar, problems: Problems) -> Gradient:
    """A scalar, or a list of different ones."""
    if not isinstance(value, list):
        return _scalar(value, path, default, problems)
    if not value:
        problems.add(path, "an empty list")
        return default
    items = [_scalar(item, path, default, problems) for item in value]
    return items[0] if all(item == items[0] for item in items) else items


def _scalar(value: Any, path: str, default: Scalar, problems: Problems) -> Scalar:
    """A flag or a number; ``1e-3`` too, which is a word in YAML 1.1."""
    if isinstance(default, bool):
        word = value.strip().lower() if isinstance(value, str) else value
        for flag, words in _FLAGS.items():
            if word in words:
                return flag
        problems.add(path, f"expected true or false, got {shown(value)}")
        return default
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        problems.add(path, f"expected a number or a list of numbers, got {shown(value)}")
        return default


def pick(values: Sequence[T], layer: int, layers: int) -> T:
    """The word or truth value that mergekit reads for one block from a list of any length."""
    return values[int(_position(layer, layers) * (len(values) - 1))]


def interpolate(values: Sequence[float], layer: int, layers: int) -> float:
    """The number that mergekit reads for one block from a gradient of any length.

    One value per block is taken as it stands; mergekit may miss it by a rounding error.

    Source: ``evaluate_setting`` in mergekit 0.1.5.
    """
    if len(values) == layers:
        return values[layer]
    scaled = _position(layer, layers) * (len(values) - 1)
    low = int(scaled)
    high = min(len(values) - 1, low + 1)
    fraction = scaled - low
    return (1 - fraction) * values[low] + fraction * values[high]


def _position(layer: int, layers: int) -> float:
    return layer / (layers - 1) if layers > 1 else 1.0
