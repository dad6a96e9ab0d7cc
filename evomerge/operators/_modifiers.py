"""Parameters of every operator on task vectors: what is done before it, and to its result.

In the order of the specification: each source is sparsified, then compressed as in ComPEFT; the
operator merges them; LiNeS scales the merged task vector by the depth of its block.
"""

# without `annotations` from `__future__`: the types of keywords are read before torch is imported
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from evomerge.kernels.choices import Method, Norm, Scope
from evomerge.operators._bound import Bound, Floats

if TYPE_CHECKING:
    from evomerge.kernels.stack import Stack

PER_SOURCE: Mapping[str, Bound] = {
    "sparsify_density": Bound(1.0, above=0.0, most=1.0),
    "compeft_density": Bound(0.0, least=0.0, most=1.0),  # 0: not compressed
    "compeft_alpha": Bound(1.0, above=0.0),
}


def modified(
    x: "Stack",
    *,
    sparsify_density: Floats,
    compeft_density: Floats,
    compeft_alpha: Floats,
    sparsify_method: Method = "magnitude",
    sparsify_rescale: Literal["none", "inverse"] | Norm = "none",
    sparsify_gamma: Annotated[float, Field(ge=0, lt=1)] = 0.01,
    sparsify_epsilon: Annotated[float, Field(ge=0, lt=0.5)] = 0.15,
    compeft_scope: Scope = "tensor",
) -> "Stack":
    """The task vectors that the operator gets to see.

    Args:
        x: task vectors.
        sparsify_density: (M,) fraction of each that is kept; 1 keeps it as it is.
        compeft_density: (M,) fraction that ComPEFT keeps; 0 leaves the source as it is.
        compeft_alpha: (M,) multiples of the standard deviation that take the values' place.
        sparsify_method: what is kept: the largest ``magnitude``, a ``random`` part, a part by
            rank (``della``), the largest without outliers (``breadcrumbs``).
        sparsify_rescale: ``inverse`` divides by the probability of being kept; ``l1``, ``l2``
            and ``linf`` restore a norm.
        sparsify_gamma: fraction dropped as outliers, for ``breadcrumbs``.
        sparsify_epsilon: half the spread of probabilities, for ``della``.
        compeft_scope: over what the deviation and the largest are taken.

    Source: Yu et al. 2024, arXiv:2311.03099; Deep et al. 2024, arXiv:2406.11617; Davari and
    Belilovsky 2024, arXiv:2312.06795; Yadav et al. 2023, arXiv:2311.13171.
    """
    if any(d < 1 for d in sparsify_density):
        from evomerge.operators._sparsify import sparsified

        settings = (sparsify_gamma, sparsify_epsilon)
        x = sparsified(x, sparsify_density, sparsify_method, sparsify_rescale, *settings)
    if any(compeft_density):
        from evomerge.operators._quantize import signs_times_deviation

        x = signs_times_deviation(x, compeft_density, compeft_alpha, compeft_scope)
    return x


def depth_factor(
    x: "Stack",
    *,
    lines_alpha: float = 1.0,
    lines_beta: float = 0.0,
    lines_head: Literal["first", "last"] = "first",
    lines_factor: float = 1.0,
) -> float:
    """What the merged task vector is multiplied with: α + β l / (L - 1) in block l of L.

    Args:
        x: the stack, which knows its depth.
        lines_alpha: α, the factor of the first block and of what lies outside the blocks.
        lines_beta: β, by how much more the last block counts; a single block is the last.
        lines_head: whether the head counts as the ``first`` block, as in the authors' code, or
            as the ``last``.
        lines_factor: a factor besides, the same at any depth.

    Source: LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    outside = 1.0 if lines_head == "last" and x.role == "head" else 0.0
    return lines_factor * (lines_alpha + lines_beta * (outside if x.depth is None else x.depth))


def _keywords(function: Any) -> list[inspect.Parameter]:
    found = inspect.signature(function).parameters.values()
    return [p for p in found if p.kind is p.KEYWORD_ONLY and p.name not in PER_SOURCE]


_LAST = _keywords(depth_factor)
SHARED: Sequence[inspect.Parameter] = [*_keywords(modified), *_LAST]
LAST = frozenset(p.name for p in _LAST)
NAMES = frozenset(PER_SOURCE) | {p.name for p in SHARED}
