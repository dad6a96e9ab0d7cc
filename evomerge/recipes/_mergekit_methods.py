"""What evomerge and mergekit have in common: methods, their parameters, tensor filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from evomerge.recipes.recipe import Scalar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Method:
    """One operator that mergekit has too, under the same name.

    Attributes:
        per_source: parameters of which every model has its own value, and evomerge's defaults.
        shared: the others, likewise. The defaults are mergekit's as well, but for ``rescale``.
        elects: whether signs are elected, so that ``normalize`` divides element by element.
    """

    per_source: Mapping[str, float] = field(default_factory=dict)
    shared: Mapping[str, Scalar] = field(default_factory=dict)
    elects: bool = False

    @property
    def defaults(self) -> dict[str, Scalar]:
        """Of every parameter."""
        return {**self.per_source, **self.shared}


_WEIGHT = {"weight": 1.0}
_BOTH = {"weight": 1.0, "density": 1.0}
_DARE: Mapping[str, Scalar] = {"lam": 1.0, "normalize": False, "rescale": "inverse"}

METHODS: Mapping[str, Method] = {
    "linear": Method(_WEIGHT, {"normalize": True}),
    "slerp": Method({}, {"t": 0.5}),
    "task_arithmetic": Method(_WEIGHT, {"lam": 1.0, "normalize": False}),
    "ties": Method(
        _BOTH,
        {"lam": 1.0, "normalize": True, "consensus": "sum", "variant": "weighted"},
        elects=True,
    ),
    "dare_linear": Method(_BOTH, _DARE),
    "dare_ties": Method(_BOTH, {**_DARE, "consensus": "sum"}, elects=True),
}

# mergekit knows one value only, our default
FIXED = ("consensus", "variant")

# What a filter selects in the tensor names of Llama and its many relatives. ``final_norm`` is the
# one after the blocks: a role for mergekit's filters, though not for ours.
FILTERS: Mapping[str, frozenset[str]] = {
    "self_attn": frozenset({"attention"}),
    "attn": frozenset({"attention"}),
    "mlp": frozenset({"mlp"}),
    "block_sparse_moe": frozenset({"mlp"}),
    "embed_tokens": frozenset({"embedding"}),
    "wte": frozenset({"embedding"}),
    "lm_head": frozenset({"head"}),
    "norm": frozenset({"norm", "final_norm"}),
    "layernorm": frozenset({"norm"}),
    "model.norm": frozenset({"final_norm"}),
}


def their_name(parameter: str) -> str:
    """What mergekit calls one of our parameters."""
    return "lambda" if parameter == "lam" else parameter


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
