"""What evomerge and mergekit have in common: methods, their parameters, tensor filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evomerge.recipes import Scalar

Base = Literal["required", "optional", "ignored"]


@dataclass(frozen=True, slots=True)
class MergeMethod:
    """One merge method of mergekit 0.1.5, and the operator that does the same.

    Names of parameters are ours.

    Attributes:
        operator: ours.
        per_source: parameters of which every model has its own value, and the defaults.
        shared: those that our operator has once, likewise.
        base: whether mergekit merges relative to ``base_model``, only if it is given, or takes it
            as one model among the others.
        elects: whether signs are elected, so that ``normalize`` divides element by element.
        needed: those without a default in mergekit.
        spread: shared ones of which mergekit has one value per model.
        renamed: to mergekit's names.
        fixed: parameters that mergekit does not have, and the only value that it knows.
        dialect: values with which the operator gives mergekit's numbers, faults included.
        unused: mergekit's names of parameters that it accepts and does not use.
        most: models that it takes besides the base; where the base is ignored, in all.
        least: likewise.
    """

    operator: str
    per_source: Mapping[str, Scalar] = field(default_factory=dict)
    shared: Mapping[str, Scalar] = field(default_factory=dict)
    base: Base = "required"
    elects: bool = False
    needed: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    dialect: Mapping[str, Scalar] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    most: int | None = None
    least: int = 1

    @property
    def defaults(self) -> dict[str, Scalar]:
        """Of every parameter that both have."""
        return {**self.per_source, **self.shared}

    def theirs(self, parameter: str) -> str:
        """What mergekit calls one of our parameters."""
        return self.renamed.get(parameter, "lambda" if parameter == "lam" else parameter)


_W: Mapping[str, Scalar] = {"weight": 1.0}
_WD: Mapping[str, Scalar] = {"weight": 1.0, "density": 1.0}
_LAM: Mapping[str, Scalar] = {"lam": 1.0, "normalize": False}
_DROP: Mapping[str, Scalar] = {**_LAM, "rescale": "inverse"}
_CRUMBS: Mapping[str, Scalar] = {**_LAM, "gamma": 0.01}
_SUM: Mapping[str, Scalar] = {"consensus": "sum"}
_NEEDS = ("weight",)

METHODS: Mapping[str, MergeMethod] = {
    "linear": MergeMethod("linear", _W, {"normalize": True}, "ignored", needed=_NEEDS),
    "slerp": MergeMethod("slerp", {}, {"t": 0.5}, needed=("t",), most=1),
    "task_arithmetic": MergeMethod(
        "task_arithmetic", _W, _LAM, needed=_NEEDS, unused=("density", "rescale")
    ),
    "ties": MergeMethod(
        "ties",
        _WD,
        {"lam": 1.0, "normalize": True},
        elects=True,
        needed=_NEEDS,
        fixed={**_SUM, "variant": "weighted", "scope": "tensor"},
    ),
    "dare_linear": MergeMethod("dare_linear", _WD, _DROP, needed=_NEEDS),
    "dare_ties": MergeMethod("dare_ties", _WD, _DROP, elects=True, needed=_NEEDS, fixed=_SUM),
    "della": MergeMethod(
        "della",
        _WD,
        {**_DROP, "normalize": True, "epsilon": 0.15},
        elects=True,
        needed=_NEEDS,
        spread=("epsilon",),
        fixed=_SUM,
    ),
    "della_linear": MergeMethod(
        "della_linear", _WD, {**_DROP, "epsilon": 0.15}, needed=_NEEDS, spread=("epsilon",)
    ),
    "breadcrumbs": MergeMethod(
        "breadcrumbs", _WD, _CRUMBS, needed=_NEEDS, spread=("gamma",), fixed={"per_row": False}
    ),
    "breadcrumbs_ties": MergeMethod(
        "breadcrumbs_ties",
        _WD,
        _CRUMBS,
        elects=True,
        needed=_NEEDS,
        spread=("gamma",),
        fixed={**_SUM, "per_row": False},
    ),
    "nuslerp": MergeMethod("nuslerp", _W, {}, "optional", needed=_NEEDS, most=2, least=2),
    "multislerp": MergeMethod(
        "multislerp",
        _W,
        {"normalize": True},
        "optional",
        needed=_NEEDS,
        renamed={"normalize": "normalize_weights"},
    ),
    "karcher": MergeMethod(
        "karcher", {}, {"max_iter": 10.0, "tol": 1e-5}, "ignored", fixed={"space": "weights"}
    ),
    "model_stock": MergeMethod(
        "model_stock",
        {},
        {"per_row": False},
        renamed={"per_row": "filter_wise"},
        fixed={"average": "cos"},
        dialect={"clamp": False},
        least=2,
    ),
    "sce": MergeMethod(
        "sce",
        {},
        {"select_topk": 1.0},
        fixed={"mask_deltas": True, "lam": 1.0},
        dialect={"coefficient_floor": 1e-6},
    ),
    "nearswap": MergeMethod("nearswap", {}, {"t": 1e-4}, needed=("t",), most=1),
    "arcee_fusion": MergeMethod("arcee_fusion", fixed={"eps": 1e-8, "iqr_factor": 1.5}, most=1),
    "ram": MergeMethod("ram", {}, {"epsilon": 1e-5}),
    "ramplus_tl": MergeMethod(
        "ramplus", {}, {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2}, fixed={"scope": "tensor"}
    ),
    "passthrough": MergeMethod("passthrough", {"scale": 1.0}, {}, "ignored", most=1),
}

METHOD_OF: Mapping[str, str] = {method.operator: name for name, method in METHODS.items()}

# What mergekit's rescale: true restores after trimming is a sum of magnitudes. Of ours the
# modifiers do that, before the operator.
RESCALED: Mapping[str, str] = {
    "ties": "magnitude",
    "breadcrumbs": "breadcrumbs",
    "breadcrumbs_ties": "breadcrumbs",
}
