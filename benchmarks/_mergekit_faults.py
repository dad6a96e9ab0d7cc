"""Why mergekit 0.1.5 gives other elements than evomerge, example by example."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """Why mergekit gives other elements.

    Attributes:
        why: the fault; docs/mergekit.md has a table of them.
        repeated: whether it does with `dialect: mergekit`, too.
    """

    why: str
    repeated: bool = False


ROWS = Fault("nuslerp_row_wise does columns, and its absence rows")
CLAMP = Fault("model_stock extrapolates where task vectors point apart")
FUSION = Fault(
    "the divergence is calculated in float32, in which it cancels; in float64 mergekit's "
    "equations give evomerge's result",
    repeated=True,
)
FAULTS = {
    "chat_template: llama3": Fault(
        "mergekit's llama3 template has a line break behind each turn, Llama 3's own has none",
        repeated=True,
    ),
    "arcee_fusion": FUSION,
    "arcee_fusion, idle weight": FUSION,
    "averaged-layers": Fault("mergekit refuses its own example: a model twice", repeated=True),
    "base in slices": Fault(
        "what comes after the blocks is merged from the first models of the last slice, as many "
        "as the first slice has",
        repeated=True,
    ),
    "karcher": Fault(
        "no fault: without base_model the first model is evomerge's base, whose row stands in "
        "where another model lacks a token; mergekit takes the mean of those that know it",
        repeated=True,
    ),
    "mega": Fault(
        "an element of a model between is rounded to the next float16, and so falls to the other "
        "side of a density's edge",
        repeated=True,
    ),
    "model_stock": CLAMP,
    "model_stock, filter_wise": CLAMP,
    "model_stock, idle weight": CLAMP,
    "fewer rows than the base": Fault(
        "the base's rows that another model lacks are cut off, and config.json still has them",
        repeated=True,
    ),
    "nuslerp": ROWS,
    "nuslerp, flatten: false": ROWS,
    "nuslerp, rows, base": ROWS,
    "ties, negative weight": Fault("sources with a negative weight vote on the sign"),
}
