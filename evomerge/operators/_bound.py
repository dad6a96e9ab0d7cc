"""The domain of a per-source parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass

Floats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The domain of a parameter of which every source has its own value.

    Attributes:
        default: used where a recipe gives none.
        above: exclusive lower bound.
        least: inclusive lower bound.
        most: inclusive upper bound.
        whole: whether it must be a whole number.
    """

    default: float
    above: float = float("-inf")
    least: float = float("-inf")
    most: float = float("inf")
    whole: bool = False

    def problem(self, value: object) -> str | None:
        """Why a value is refused, or None."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"expected a number, got {value!r}"
        if not math.isfinite(value):
            return f"must lie in {self._interval()}, got {value:g}"
        if not (self.above < value <= self.most and self.least <= value):
            return f"must lie in {self._interval()}, got {value:g}"
        if self.whole and value != int(value):
            return f"must be a whole number, got {value:g}"
        return None

    def _interval(self) -> str:
        low = f"[{self.least:g}" if self.least > self.above else f"({self.above:g}"
        return f"{low}, {self.most:g}" + ("]" if math.isfinite(self.most) else ")")
