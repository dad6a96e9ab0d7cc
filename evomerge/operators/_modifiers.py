"""Parameters of every operator on task vectors: what is done before it, and to its result.

Each source is sparsified, then compressed as in ComPEFT; the operator merges them; LiNeS scales the
merged task vector by the depth of its block. ``density`` of `sparsify` is the YAML key
``sparsify_density``, and so on.
"""

# without `annotations` from `__future__`: the types of keywords are read before torch is imported
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from evomerge.errors import shown
from evomerge.kernels.choices import Method, Norm, Scope
from evomerge.keys import is_computable

if TYPE_CHECKING:
    from evomerge.kernels.stack import Stack

Floats = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The domain of a parameter of which every source has its own value.

    Attributes:
        default: used where a recipe gives none.
        above: exclusive lower bound.
        least: inclusive lower bound.
        most: inclusive upper bound.
        below: exclusive upper bound.
        whole: whether it must be a whole number.
        together: whether a search has one value for all sources; a recipe may give each its own.
    """

    default: float
    above: float = float("-inf")
    least: float = float("-inf")
    most: float = float("inf")
    below: float = float("inf")
    whole: bool = False
    together: bool = False

    def problem(self, value: object) -> str | None:
        """Why a value is refused, or None."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"expected a number, got {shown(value)}"
        if not is_computable(value):
            return f"must lie in {self._interval()}, got {shown(value)}"
        if not (self.above < value < self.below and self.least <= value <= self.most):
            return f"must lie in {self._interval()}, got {value:g}"
        if self.whole and value != int(value):
            return f"must be a whole number, got {value:g}"
        return None

    def _interval(self) -> str:
        low = f"[{self.least:g}" if self.least > self.above else f"({self.above:g}"
        high = f"{self.most:g}]" if self.most < self.below else f"{self.below:g})"
        return f"{low}, {high}"


DENSITY = Bound(1.0, least=0.0, most=1.0)
GAMMA = Bound(0.01, least=0.0, below=1.0, together=True)
EPSILON = Bound(0.15, least=0.0, below=0.5, together=True)


PER_SOURCE: Mapping[str, Bound] = {
    "sparsify_density": DENSITY,
    "sparsify_gamma": GAMMA,
    "sparsify_epsilon": EPSILON,
    "compeft_density": Bound(0.0, least=0.0, most=1.0),  # 0: not compressed
    "compeft_alpha": Bound(1.0, above=0.0),
}


def sparsify(
    x: "Stack",
    *,
    density: Floats,
    method: Method = "magnitude",
    rescale: Literal["none", "inverse"] | Norm = "none",
    gamma: Floats,
    epsilon: Floats,
) -> "Stack":
    """The task vectors with a fraction of each kept.

    Args:
        x: task vectors.
        density: (M,) fraction of each that is kept; 1 keeps it as it is, 0 nothing of it.
        method: what is kept: the largest ``magnitude``, a ``random`` part, a part by rank
            (``della``), the largest without outliers (``breadcrumbs``).
        rescale: ``inverse`` divides by the probability of being kept; ``l1``, ``l2`` and ``linf``
            restore a norm.
        gamma: (M,) fraction dropped as outliers, for ``breadcrumbs``.
        epsilon: (M,) half the spread of probabilities, for ``della``.

    Source: Yu et al. 2024, arXiv:2311.03099; Deep et al. 2024, arXiv:2406.11617; Davari and
    Belilovsky 2024, arXiv:2312.06795.
    """
    if all(d >= 1 for d in density):
        return x
    from evomerge.operators._sparsify import sparsified

    return sparsified(x, density, method=method, rescale=rescale, gamma=gamma, epsilon=epsilon)


def compeft(x: "Stack", *, density: Floats, alpha: Floats, scope: Scope = "tensor") -> "Stack":
    """The task vectors reduced to signs times one number.

    Args:
        x: task vectors.
        density: (M,) fraction that ComPEFT keeps; 0 leaves the source as it is.
        alpha: (M,) multiples of the standard deviation that take the values' place.
        scope: over what the deviation and the largest are taken.

    Source: Yadav et al. 2023, arXiv:2311.13171.
    """
    if not any(density):
        return x
    from evomerge.operators._quantize import signs_times_deviation

    return signs_times_deviation(x, density, alpha, scope)


def lines(
    x: "Stack",
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    head: Literal["first", "last"] = "first",
    factor: float = 1.0,
) -> float:
    """What the merged task vector is multiplied by: α + β l / (L - 1) in block l of L.

    Args:
        x: the stack, which knows its depth.
        alpha: α, the factor of the first block and of what lies outside the blocks.
        beta: β, by how much more the last block counts; a single block is the last.
        head: whether the head counts as the ``first`` block, as in the authors' code, or as the
            ``last``.
        factor: a factor besides, the same at any depth.

    Source: LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    outside = 1.0 if head == "last" and x.role == "head" else 0.0
    return factor * (alpha + beta * (outside if x.depth is None else x.depth))


MODIFIERS: Sequence[Callable[..., Any]] = (sparsify, compeft, lines)


def modify(x: "Stack", settings: Mapping[str, Any]) -> "tuple[Stack, float]":
    """The task vectors that the operator merges, and the factor of its result.

    Args:
        x: task vectors.
        settings: the values of all YAML keys of the modifiers.
    """

    def of(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}

    x = compeft(sparsify(x, **of("sparsify_")), **of("compeft_"))
    return x, lines(x, **of("lines_"))


_KEYS = {
    (key := f"{modifier.__name__}_{p.name}"): p.replace(name=key)
    for modifier in MODIFIERS
    for p in inspect.signature(modifier).parameters.values()
    if p.kind is p.KEYWORD_ONLY
}
SHARED: Sequence[inspect.Parameter] = [p for key, p in _KEYS.items() if key not in PER_SOURCE]
NAMES = frozenset(_KEYS)
