"""Tasks that functions of a person's own score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.engines._slots import Slots
from evomerge.errors import CandidateError, ConfigError
from evomerge.nouns import TaskScores
from evomerge.scoring import Fitness
from evomerge.scoring.python import PythonScorer, scorer_problems

CODE = """
import numpy as np
import torch

X = {"search": torch.tensor([[1.0], [2.0], [3.0]]), "held_out": torch.tensor([[4.0]])}

def tensor(module, split):
    assert not torch.is_grad_enabled()
    return module(X[split])[:, 0]

def array(module, split):
    return module(X[split])[:, 0].numpy()

def listed(module, split):
    return module(X[split])[:, 0].tolist()

def rounded(module, split):
    return module(X[split])[:, 0].to(torch.bfloat16)

def scaled(module, split, *, options):
    return options["by"] * tensor(module, split)

def searched_only(module, split):
    return tensor(module, split) if split == "search" else []

def nothing(module, split):
    return []

def total(module, split):
    return tensor(module, split).sum()

def words(module, split):
    return ["good", "bad"]

def undefined(module, split):
    return tensor(module, split) / 0.0

def unsure(module, split, calls=[]):
    calls.append(1)
    return tensor(module, split)[len(calls) - 1:]

def module_alone(module):
    return []
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "code.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def module() -> torch.nn.Module:
    """x + 0.5."""
    module = torch.nn.Linear(1, 1)
    module.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.full((1,), 0.5)})
    return module


def fitness(code: Path, name: str, **keys: Any) -> Fitness:
    return Fitness.model_validate({"tasks": {"x": {"scorer": f"{code}:{name}", **keys}}})


def problem(code: Path, name: str, **keys: Any) -> str:
    (found,) = scorer_problems(fitness(code, name, **keys))
    return found


@pytest.mark.parametrize("name", ["tensor", "array", "listed", "rounded"])
def test_scores_may_be_a_tensor_an_array_or_a_list(
    code: Path, module: torch.nn.Module, name: str
) -> None:
    one = fitness(code, name)
    expected = {"search": ((0, 1, 2), (1.5, 2.5, 3.5)), "held_out": ((0,), (4.5,))}
    assert PythonScorer(one, "search").score(module) == {"x": TaskScores(2.5, *expected["search"])}
    found = PythonScorer(one, "held_out").score(module)
    assert found == {"x": TaskScores(4.5, *expected["held_out"])}


def several(modules: list[torch.nn.Module]) -> Callable[..., torch.Tensor]:
    """As an engine with several slots asks; the first of the modules is asked."""
    states = [
        {name: value.clone() for name, value in one.state_dict().items()} for one in modules
    ]
    slots = Slots(modules[0], list(states[0]), len(modules))
    for number, state in enumerate(states):
        for name, target in slots.targets(number).items():
            target.copy_(state[name])
    slots.turn_to(0)
    return slots.at_all


@pytest.mark.parametrize(
    ("name", "together"), [("tensor", True), ("rounded", True), ("array", False), ("listed", False)]
)
def test_what_is_torch_alone_is_asked_of_several_at_once_and_scores_the_same(
    code: Path, module: torch.nn.Module, name: str, together: bool
) -> None:
    other = torch.nn.Linear(1, 1)
    scorer = PythonScorer(fitness(code, name), "search")
    at_all = several([module, other])
    for _ in range(2):  # the second time it is known
        known = scorer.ask_all(at_all)
        assert list(known) == (["x"] if together else [])
        for number, one in enumerate((module, other)):
            own = {task: rows[number] for task, rows in known.items()}
            assert scorer.score(one, own) == scorer.score(one)


def test_a_candidate_that_cannot_be_scored_with_others_is_told_alone(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "tensor"), "search")
    at_all = several([module])

    def out_of_order(function: Any) -> torch.Tensor:
        raise RuntimeError("this batch")

    assert list(scorer.ask_all(at_all)) == ["x"]
    assert list(scorer.ask_all(out_of_order)) == []
    assert list(scorer.ask_all(at_all)) == ["x"]


def test_options_reach_the_scorer(code: Path, module: torch.nn.Module) -> None:
    scorer = PythonScorer(fitness(code, "scaled", options={"by": 2.0}), "search")
    assert scorer.score(module)["x"].example_scores == (3.0, 5.0, 7.0)


def test_a_scorer_may_hold_nothing_out(code: Path, module: torch.nn.Module) -> None:
    one = fitness(code, "searched_only")
    assert PythonScorer(one, "search").score(module)["x"].score == 2.5
    assert PythonScorer(one, "held_out").score(module) == {}


def test_scores_that_are_not_finite_fail_the_candidate_alone(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "tensor"), "search")
    module.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.full((1,), torch.nan)})
    with pytest.raises(CandidateError, match=r"tasks.x: 3 of 3 scores are not finite"):
        scorer.score(module)
    module.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    assert scorer.score(module)["x"].score == 2.0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "tasks.x: the scorer gave no scores to search by."),
        ("total", r"one score an example, \(E,\), of the scorer, got the shape \(\)"),
        ("words", "tasks.x: expected numbers of the scorer, got list."),
    ],
)
def test_what_are_no_scores_is_the_fault_of_the_scorer(
    code: Path, module: torch.nn.Module, name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        PythonScorer(fitness(code, name), "search").score(module)


def test_a_scorer_with_other_examples_for_other_models_is_refused(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "unsure"), "search")
    assert len(scorer.score(module)["x"].doc_ids) == 3
    with pytest.raises(ConfigError, match=r"tasks.x: the scorer gave 2 scores, and 3 before"):
        scorer.score(module)


def test_scorers_that_cannot_be_called_are_told_before_anything_is_opened(code: Path) -> None:
    assert scorer_problems(fitness(code, "tensor")) == []
    assert problem(code, "tensro") == (
        f"tasks.x.scorer: {code}: has no function 'tensro'. Did you mean 'tensor'?"
    )
    assert problem(code, "module_alone") == (
        f"tasks.x.scorer: {code}: module_alone must take (module, split): "
        "too many positional arguments"
    )
    assert "tensor must take (module, split, options=...)" in problem(
        code, "tensor", options={"by": 2}
    )
    assert "missing a required argument: 'options'" in problem(code, "scaled")
    code.unlink()
    assert problem(code, "tensor") == f"tasks.x.scorer: {code}: no such file"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, r"give task \(lm-eval's name\) or scorer"),
        ({"task": "gsm8k", "scorer": "a.py:f"}, "not both"),
        ({"task": "gsm8k", "options": {"a": 1}}, "options: they are for a scorer"),
        ({"scorer": "a.py:f", "metric": "acc", "held_out": "b"}, "held_out, metric: for lm-eval"),
        ({"scorer": "a.py:f", "search_examples": 3}, "search_examples: for lm-eval tasks"),
    ],
)
def test_a_task_is_either_of_lm_eval_or_a_scorer(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Fitness.model_validate({"tasks": {"x": keys}})


def test_two_scorers_hold_out_what_they_like() -> None:
    tasks = {"a": {"scorer": "a.py:f"}, "b": {"scorer": "a.py:f", "weight": 2}}
    assert list(Fitness.model_validate({"tasks": tasks}).scorers) == ["a", "b"]


def test_the_digest_covers_the_code_but_not_where_it_lies(code: Path, tmp_path: Path) -> None:
    one = fitness(code, "tensor")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "other.py"
    copy.write_text(CODE)
    digest = one.digest
    assert fitness(copy, "tensor").digest == digest
    assert fitness(copy, "array").digest != digest
    assert fitness(copy, "tensor", options={"a": 1}).digest != digest
    code.write_text(CODE + "\n")
    assert one.digest != digest
