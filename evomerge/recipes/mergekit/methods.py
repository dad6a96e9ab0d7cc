"""The merge methods of mergekit, and the operators that do the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evomerge.recipes import Scalar

Constants = Mapping[str, Scalar]  # parameter to value

NEEDED = ("weight", "t")  # parameters without a default in mergekit, wherever it has them


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeMethod:
    """One merge method of mergekit 0.1.5, with the names of our operator's parameters.

    Attributes:
        name: mergekit's.
        other: the name of our operator where it is another one.
        per_source: parameters of which every model has its own value, with their defaults.
        shared: parameters that our operator has once, with their defaults.
        base: whether mergekit merges relative to ``base_model`` always, only if it is given, or
            never, as the base is one model among the others.
        renamed: parameter to mergekit's name, where it is another one.
        fixed: parameters that mergekit lacks, with the value that it behaves as.
        dialect: parameters that make the operator repeat mergekit's numbers, faults included.
        unused: mergekit's names of parameters that it accepts and does not use.
        least, most: how many models it takes besides the base; in all where the base is ignored.
    """

    name: str
    other: str = ""
    per_source: Constants = field(default_factory=dict)
    shared: Constants = field(default_factory=dict)
    base: Literal["required", "optional", "ignored"] = "required"
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Constants = field(default_factory=dict)
    dialect: Constants = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    least: int = 1
    most: int | None = None

    @property
    def operator(self) -> str:
        """The name of our operator."""
        return self.other or self.name

    @property
    def elects(self) -> bool:
        """Whether signs are elected, so that ``normalize`` divides element by element."""
        return "consensus" in self.fixed

    @property
    def of_pairs(self) -> bool:
        """Whether it merges the base and one more; of two sources the first is its base."""
        return self.base == "required" and self.most == 1

    @property
    def defaults(self) -> dict[str, Scalar]:
        """Every parameter that both have, with its default."""
        return {**self.per_source, **self.shared}

    def theirs(self, parameter: str) -> str:
        """What mergekit calls one of our parameters."""
        return self.renamed.get(parameter, "lambda" if parameter == "lam" else parameter)


_WEIGHT: Constants = {"weight": 1.0}
_SPARSE: Constants = {"weight": 1.0, "density": 1.0}
_LAM: Constants = {"lam": 1.0, "normalize": False}
_DROP: Constants = {**_LAM, "rescale": "inverse"}
_DELLA: Constants = {**_SPARSE, "epsilon": 0.15}
_CRUMBS: Constants = {**_SPARSE, "gamma": 0.01}
_SUM: Constants = {"consensus": "sum"}

_METHODS = (
    MergeMethod(name="linear", per_source=_WEIGHT, shared={"normalize": True}, base="ignored"),
    MergeMethod(name="slerp", shared={"t": 0.5}, most=1),
    MergeMethod(
        name="task_arithmetic", per_source=_WEIGHT, shared=_LAM, unused=("density", "rescale")
    ),
    MergeMethod(
        name="ties",
        per_source=_SPARSE,
        shared={"lam": 1.0, "normalize": True},
        fixed={**_SUM, "variant": "weighted", "scope": "tensor"},
    ),
    MergeMethod(name="dare_linear", per_source=_SPARSE, shared=_DROP),
    MergeMethod(name="dare_ties", per_source=_SPARSE, shared=_DROP, fixed=_SUM),
    MergeMethod(
        name="della",
        per_source=_DELLA,
        shared={**_DROP, "normalize": True},
        fixed=_SUM,
    ),
    MergeMethod(name="della_linear", per_source=_DELLA, shared=_DROP),
    MergeMethod(
        name="breadcrumbs",
        per_source=_CRUMBS,
        shared=_LAM,
        fixed={"per_row": False},
    ),
    MergeMethod(
        name="breadcrumbs_ties",
        per_source=_CRUMBS,
        shared=_LAM,
        fixed={**_SUM, "per_row": False},
    ),
    MergeMethod(name="nuslerp", per_source=_WEIGHT, base="optional", least=2, most=2),
    MergeMethod(
        name="multislerp",
        per_source=_WEIGHT,
        shared={"normalize": True},
        base="optional",
        renamed={"normalize": "normalize_weights"},
    ),
    MergeMethod(
        name="karcher",
        shared={"max_iter": 10.0, "tol": 1e-5},
        base="ignored",
        fixed={"space": "weights"},
    ),
    MergeMethod(
        name="model_stock",
        shared={"per_row": False},
        renamed={"per_row": "filter_wise"},
        fixed={"average": "cos"},
        dialect={"clamp": False},
        least=2,
    ),
    MergeMethod(
        name="sce",
        shared={"select_topk": 1.0},
        fixed={"mask_deltas": True, "lam": 1.0},
        dialect={"coefficient_floor": 1e-6},
    ),
    MergeMethod(name="nearswap", shared={"t": 1e-4}, most=1),
    MergeMethod(name="arcee_fusion", fixed={"eps": 1e-8, "iqr_factor": 1.5}, most=1),
    MergeMethod(name="ram", shared={"epsilon": 1e-5}),
    MergeMethod(
        name="ramplus_tl",
        other="ramplus",
        shared={"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
        fixed={"scope": "tensor"},
    ),
    MergeMethod(name="passthrough", per_source={"scale": 1.0}, base="ignored", most=1),
)

METHODS: Mapping[str, MergeMethod] = {method.name: method for method in _METHODS}
METHOD_OF: Mapping[str, MergeMethod] = {method.operator: method for method in _METHODS}

# mergekit's method to our `sparsify_method` with the same effect: with `rescale: true` it restores
# the sum of magnitudes after trimming, which in evomerge modifiers do before the operator.
RESCALED: Mapping[str, str] = {
    "ties": "magnitude",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs",
}
