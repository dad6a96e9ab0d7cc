"""A weighted sum of LoRA adapters as one adapter: their factors side by side.

Σ w_i s_i B_i A_i = B' A' exactly, where the rows of A' are √|w_i s_i| sgn(w_i s_i) A_i and the
columns of B' are √|w_i s_i| B_i. The rank is the sum of the ranks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError
from evomerge.weights.adapters.adapter import Adapter
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step

_PARAMETERS = ("weight", "lam", "normalize")
_SUM_TOLERANCE = 1e-6  # of weights that must add up to 1


class Factors(NamedTuple):
    """The factors of a low-rank product: (R, in) and (out, R) float32."""

    a: Tensor
    b: Tensor


def source_problems(models: Models) -> list[str]:
    """A sentence for each source that is neither the base nor a plain adapter of it."""
    problems = []
    for name, source in models.sources.items():
        if source is models.base:
            continue
        if not isinstance(source, Adapter):
            problems.append(f"{name}: is no adapter of the base. Leave engine.adapters out.")
        elif not source.plain:
            problems.append(f"{name}: saves tensors or magnitudes too. Leave engine.adapters out.")
        elif outer := [n for n in source.changes if source.places[n].role in ("embedding", "head")]:
            problems.append(f"{name}: changes {outer[0]}. Leave engine.adapters out.")
    return problems


def plan_problems(plan: Plan) -> list[str]:
    """Sentences about why a plan is no weighted sum of adapters on an unchanged base."""
    recipe, models = plan.recipe, plan.models
    problems = source_problems(models)
    if recipe.operator not in ("task_arithmetic", "linear"):
        problems.append(
            f"operator: {recipe.operator} adds up no adapters. Use task_arithmetic or linear, or "
            "leave engine.adapters out."
        )
    problems += [
        f"parameters.{name}: changes more than the weights of adapters. Remove it, or leave "
        "engine.adapters out."
        for name in recipe.parameters
        if name not in _PARAMETERS
    ]
    if recipe.slices:
        problems.append("slices: adapters stay in their blocks. Leave engine.adapters out.")
    if recipe.scales:
        problems.append("scales: change more than adapters. Leave engine.adapters out.")
    rows = models.vocabulary
    if rows is not None and not all(rows.is_own(member) for member in models.members):
        problems.append("tokenizer: rows are matched by token. Leave engine.adapters out.")
    return problems


def modules_of(models: Models) -> list[str]:
    """Names of the modules that any adapter changes, such as ``q_proj``, sorted."""
    changed = (name for source in _adapters(models) for name in source.changes)
    return sorted({name.removesuffix(".weight").rpartition(".")[2] for name in changed})


def rank_of(models: Models) -> int:
    """The largest rank that a sum of the adapters can have."""
    return sum(
        max((source.stored[c.a].shape[0] for c in source.changes.values() if c.a), default=0)
        for source in _adapters(models)
    )


def concatenate(plan: Plan) -> dict[str, Factors]:
    """The recipe's adapters as one, by PEFT's layer names; layers of weight 0 are left out.

    Args:
        plan: one that has no `plan_problems`.

    Raises:
        CheckpointError: an adapter holds a NaN or an infinity.
        CandidateError: weights of ``linear`` that do not add up to 1, so that they change the
            base, or values that float32 cannot hold.
    """
    layers: dict[str, Factors] = {}
    for step in plan.steps:
        parts = list(_parts(plan, step)) if step.slot.floating else []
        if not parts:
            continue
        factors = Factors(torch.cat([a for _, a, _ in parts]), torch.cat([b for *_, b in parts], 1))
        # a bound of the product's elements; NaN if the factors hold one
        largest = factors.a.abs().max() * factors.b.abs().max() * len(factors.a)
        if not largest.isfinite():
            if problems := plan.models.non_finite_in(step.slot):
                raise CheckpointError(problems)
            name = step.slot.name
            raise CandidateError(f"{name}: weights and adapter are more than float32 can hold")
        layers[parts[0][0]] = factors
    return layers


def write_adapter(factors: dict[str, Factors], folder: Path) -> None:
    """Write a LoRA adapter of scale 1, all layers padded with zeros to the same rank.

    Args:
        factors: at least one, by PEFT's names of layers.
        folder: must not exist.
    """
    rank = max(len(f.a) for f in factors.values())
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in factors.items():
        missing = rank - len(a)
        tensors[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a, (0, 0, 0, missing))
        tensors[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b, (0, missing))
    config = {
        **{"peft_type": "LORA", "r": rank, "lora_alpha": rank, "use_rslora": False},
        **{"bias": "none", "inference_mode": True},
        "target_modules": sorted({name.rpartition(".")[2] for name in factors}),
    }
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _adapters(models: Models) -> list[Adapter]:
    """The sources that are adapters; one that is named twice comes twice."""
    return [source for source in models.sources.values() if isinstance(source, Adapter)]


def _parts(plan: Plan, step: Step) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Layer and scaled factors of every source that changes a tensor."""
    coefficients = _coefficients(plan, step)
    for (source, name), coefficient in zip(step.slot.inputs.items(), coefficients, strict=True):
        model = plan.models.sources[source]
        change = model.changes.get(name) if isinstance(model, Adapter) else None
        if change is None or not change.a or not change.b or not coefficient * change.scale:
            continue
        assert isinstance(model, Adapter)
        scale = coefficient * change.scale
        root = math.sqrt(abs(scale))
        a = model.tensor(change.a).double() * math.copysign(root, scale)
        b = model.tensor(change.b).double() * root
        yield change.a.removesuffix(".lora_A.weight"), a.float(), b.float()


def _coefficients(plan: Plan, step: Step) -> Sequence[float]:
    """The factor of each source's task vector."""
    weight = step.per_source["weight"] if step.slot.inputs else ()
    settings = {**plan.operator.shared, **step.shared}
    total = math.fsum(weight)
    divisor = 1.0 if not settings["normalize"] or abs(total) < 1e-8 else total
    if plan.recipe.operator == "task_arithmetic":
        return [settings["lam"] * w / abs(divisor) for w in weight]
    if weight and abs(total / divisor - 1) > _SUM_TOLERANCE:
        raise CandidateError(
            f"{step.slot.name}: the weights of linear add up to {total:g}, which scales the base. "
            "Let them add up to 1, or use task_arithmetic."
        )
    return [w / divisor for w in weight]
