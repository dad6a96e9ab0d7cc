"""Golden numbers that an operator computes on its way: masks, coefficients, thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.measures import measures
from evomerge.kernels.ranks import Ranking
from evomerge.kernels.selection import selected
from evomerge.kernels.stack import Stack
from evomerge.operators import arcee_fusion as arcee_module
from evomerge.operators import consensus_ta as consensus_module
from evomerge.operators import emr as emr_module
from evomerge.operators import model_stock as stock_module
from evomerge.operators import mwa as mwa_module
from evomerge.operators._sparsify import keep_probabilities
from evomerge.operators.varm import shares, squares

GOLDEN = Path(__file__).parents[1] / "golden"


def case(operator: str, name: str) -> Any:
    cases = json.loads((GOLDEN / f"{operator}.json").read_text())["cases"]
    return next(c for c in cases if c["name"] == name)


def deltas(found: Any) -> Tensor:
    inputs = found["inputs"]
    return torch.tensor(inputs["sources"]) - torch.tensor(inputs["base"])


def close(actual: Any, expected: Any, tol: float = 2e-6) -> None:
    actual = torch.as_tensor(actual).double()
    torch.testing.assert_close(actual, torch.tensor(expected).double(), rtol=tol, atol=tol)


def test_della_keeps_by_rank_in_the_row() -> None:
    found = case("della", "probs_row_rank")
    tau = torch.tensor(found["inputs"]["tau"])
    close(keep_probabilities(tau, **found["params"]), found["expected"])


def test_consensus_masks() -> None:
    found = case("consensus_ta", "masks")
    tau = deltas(found)
    close(
        consensus_module.masks(tau, [found["params"]["lam_mask"]] * 3), found["expected"]["masks"]
    )
    close(tau.sum(0), found["expected"]["multi_task_vector"])


def test_emr_unifies_task_vectors() -> None:
    found = case("emr", "unified")
    close(emr_module.unified(deltas(found)), found["expected"]["unified"])


@pytest.mark.parametrize("name", ["all", "select_half"])
def test_sce_coefficients(name: str) -> None:
    found = case("sce", name)
    x = Stack(list(deltas(found)))
    fraction = found["params"]["select_topk"]
    sums = selected(x, fraction).squares if fraction < 1 else squares(measures(x))
    close(shares(sums.tolist()), found["expected"]["coefficients"])


@pytest.mark.parametrize(("operator", "name"), [("varm", "matrix_level"), ("codiemb", "q1")])
def test_weights_by_deviation(operator: str, name: str) -> None:
    found = case(operator, name)
    sums = squares(measures(Stack(list(deltas(found))))).tolist()
    close(shares(sums, found["params"]["q"]), found["expected"]["weights"])


@pytest.mark.parametrize(
    "name", ["tensor", "per_row", "angle_average", "aligned_pair", "unclamped_negative_cos"]
)
def test_model_stock_ratio(name: str) -> None:
    found = case("model_stock", name)
    settings = dict(found["params"])
    rows = deltas(found).double()
    rows = rows.transpose(0, 1) if settings.pop("per_row") else rows.flatten(1).unsqueeze(0)
    close(stock_module.ratio(rows @ rows.transpose(1, 2), **settings), found["expected"]["t"])


def test_arcee_fusion_importance_and_threshold() -> None:
    found = case("arcee_fusion", "basic")
    lines = torch.tensor([found["inputs"]["base"], found["inputs"]["other"]])
    divergence = arcee_module.row_divergence(lines, found["params"]["eps"]).float()
    importance = (lines[1] - lines[0]).abs() * divergence.unsqueeze(1)
    close(importance, found["expected"]["importance"])
    ranking = Ranking(lambda: iter([(0, importance.view(1, -1))]))
    level = arcee_module.threshold(ranking, importance.numel(), found["params"]["iqr_factor"])
    close(level, found["expected"]["threshold"])


@pytest.mark.parametrize("name", ["loss", "steps", "softmax"])
def test_mwa_weights(name: str) -> None:
    found = case("mwa", name)
    settings = found["params"]
    weights = mwa_module.weights(settings["metrics"], settings["kind"], settings["penalty"])
    close(weights, found["expected"])


def test_mwa_refuses_a_loss_of_zero() -> None:
    with pytest.raises(OperatorError, match="metric must be positive for kind loss, got 0"):
        mwa_module.weights([1.0, 0.0], "loss", 1.0)
