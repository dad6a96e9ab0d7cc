"""How two parents are mixed: where chromosomes are split, and with which weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from evomerge.errors import ConfigError, Problem
from evomerge.recipes.layout import Layout

Words = str | list[str]
InnerProducts = tuple[float, float, float]  # ⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩
InnerOf = Callable[[int, int], InnerProducts]  # from one element to another

_LEAST_SINE = 1e-6  # below, the arc is a straight line


class MixedSpan(NamedTuple):
    """Elements on which a child is one weighted sum of its parents.

    Attributes:
        start, stop: elements; an empty span changes nothing.
        weights: of each parent.
    """

    start: int
    stop: int
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The options of a crossover; see `CrossoverSpace`.

    Raises:
        ConfigError: an angle of lines.
    """

    interpolation: Literal["lerp", "slerp"] = "lerp"
    angle: Literal["side", "chromosome"] | None = None
    align: Literal["element", "tensor", "layer"] = "element"

    def __post_init__(self) -> None:
        if self.angle is not None and self.interpolation == "lerp":
            text, cure = "lines have none.", "Set interpolation: slerp, or leave it out."
            raise ConfigError(Problem(("angle",), text, cure, about=("interpolation",)))

    def spans(
        self, genes: Mapping[str, Any], names: Iterable[str], layout: Layout, inner_of: InnerOf
    ) -> dict[str, tuple[MixedSpan, MixedSpan]]:
        """Chromosome to the two spans that a child's crossing mixes, before and after its split.

        Args:
            genes: ``split[c]`` and ``ratio[c]`` of every chromosome c.
            names: (C,) of the chromosomes.
            inner_of: the parents' inner products; not asked under ``lerp``.
        """
        spans = {}
        for name, (start, stop) in zip(names, pairwise(layout.edges), strict=True):
            cut = self._cut(layout, start, stop, float(genes[f"split[{name}]"]))
            ratio = float(genes[f"ratio[{name}]"])
            if self.interpolation == "lerp":
                before, after = lerp_weights(ratio), lerp_weights(1 - ratio)
            elif self.angle == "chromosome":
                inner = inner_of(start, stop)
                before, after = slerp_weights(inner, ratio), slerp_weights(inner, 1 - ratio)
            else:
                before = slerp_weights(inner_of(start, cut), ratio)
                after = slerp_weights(inner_of(cut, stop), 1 - ratio)
            spans[name] = MixedSpan(start, cut, before), MixedSpan(cut, stop, after)
        return spans

    def _cut(self, layout: Layout, start: int, stop: int, split: float) -> int:
        """The element at which a chromosome is split, the nearest that is allowed."""
        cut = start + round(split * (stop - start))
        if self.align == "element":
            return cut
        allowed = layout.starts if self.align == "tensor" else layout.layers
        inside = [position for position in allowed if start <= position <= stop]
        return min(inside, key=lambda position: abs(position - cut))


def lerp_weights(t: float) -> tuple[float, float]:
    """The weights of two models at fraction t of the straight line between them."""
    return 1 - t, t


def slerp_weights(inner: InnerProducts, t: float) -> tuple[float, float]:
    """The weights of two vectors at fraction t of the arc between them; a line where it is none.

    Source: Shoemake 1985, doi:10.1145/325165.325242; M2N2, arXiv:2508.16204.
    """
    xx, xy, yy = inner
    lengths = math.sqrt(max(xx, 0.0) * max(yy, 0.0))
    if lengths == 0:
        return lerp_weights(t)
    angle = math.acos(min(max(xy / lengths, -1.0), 1.0))
    sine = math.sin(angle)
    if sine <= _LEAST_SINE:
        return lerp_weights(t)
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def chromosome_words(option: str | list[str] | Mapping[str, Words]) -> dict[str, list[str]]:
    """Chromosome to its words, from the option ``chromosomes``.

    Raises:
        ConfigError: none, one without a word, or a name given twice.
    """
    names: list[str] = [option] if isinstance(option, str) else list(option)
    named = option if isinstance(option, Mapping) else {name: name for name in names}
    words_of = {n: [words] if isinstance(words, str) else list(words) for n, words in named.items()}
    if not words_of or not all(words_of.values()):
        text = "name at least one, and words for each."
        raise ConfigError(Problem(("chromosomes",), text, "Try: all"))
    if len(words_of) < len(names):
        raise ConfigError(Problem(("chromosomes",), "one is named twice.", "Remove it."))
    return words_of
