"""Tasks that functions of a person's own score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.engines._slots import WeightSlots
from evomerge.errors import CandidateError
from evomerge.scoring import Fitness
from evomerge.scoring.python import PythonScorer, count_mismatch, scorer_problems
from evomerge.types import TaskScores

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

def unsure(module, split, calls=[]):
    calls.append(1)
    return tensor(module, split)[len(calls) - 1:]

def some(module, split, examples=None):
    X_E = X[split] if examples is None else X[split][examples]
    return module(X_E)[:, 0]

def too_many(module, split, examples=None):
    return tensor(module, split)

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
    return str(found)


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
    states = [{name: value.clone() for name, value in one.state_dict().items()} for one in modules]
    slots = WeightSlots(modules[0], list(states[0]), len(modules))
    for number, state in enumerate(states):
        for name, target in slots.targets(number).items():
            target.copy_(state[name])
    slots.select_slot(0)
    return slots.for_all_slots


@pytest.mark.parametrize(
    ("name", "together"), [("tensor", True), ("rounded", True), ("array", False), ("listed", False)]
)
def test_what_is_torch_alone_is_asked_of_several_at_once_and_scores_the_same(
    code: Path, module: torch.nn.Module, name: str, together: bool
) -> None:
    other = torch.nn.Linear(1, 1)
    scorer = PythonScorer(fitness(code, name), "search")
    for_all_slots = several([module, other])
    for _ in range(2):  # the second time it is known
        known = scorer.ask_all(for_all_slots)
        assert list(known) == (["x"] if together else [])
        for number, one in enumerate((module, other)):
            own = {task: rows[number] for task, rows in known.items()}
            assert scorer.score(one, own) == scorer.score(one)


def test_a_candidate_that_cannot_be_scored_with_others_is_reported_alone(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "tensor"), "search")
    for_all_slots = several([module])

    def out_of_order(function: Any) -> torch.Tensor:
        raise RuntimeError("this batch")

    assert list(scorer.ask_all(for_all_slots)) == ["x"]
    assert list(scorer.ask_all(out_of_order)) == []
    assert list(scorer.ask_all(for_all_slots)) == ["x"]


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
    said = (
        r"x: code.py:tensor: expected one score an example, \(E,\), got 3 of 3 that are not finite"
    )
    with pytest.raises(CandidateError, match=said):
        scorer.score(module)
    module.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    assert scorer.score(module)["x"].score == 2.0


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("[]", "got none to search by"),
        ("tensor(module, split).sum()", r"got the shape \(\)"),
        ("module(X[split]) > 2", r"got the shape \(3, 1\)"),
        ("['0.5', '0.25', '1']", r"as numbers, got list \['0.5', '0.25', '1'\]"),
        ("'0.5'", "as numbers, got str '0.5'"),
        ("None", "as numbers, got NoneType None"),
        ("[0.5, None, 1.0]", r"as numbers, got list \[0.5, None, 1.0\]"),
        ("[[0.5], [0.5, 1.0]]", "as numbers, got list"),
        ("{'score': 1.0}", "as numbers, got dict"),
        ("[1j, 2.0, 3.0]", "as numbers, got list"),
        ("torch.zeros(3, dtype=torch.complex64)", "as numbers, got Tensor"),
        ("[1.0, float('inf'), 1.0]", "got 1 of 3 that are not finite"),
    ],
)
def test_what_are_no_scores_fails_the_candidate(
    code: Path, module: torch.nn.Module, returned: str, said: str
) -> None:
    code.write_text(f"{CODE}\ndef odd(module, split):\n    return {returned}\n")
    said = rf"^tasks.x: code.py:odd: expected one score an example, \(E,\),.* ?{said}"
    with pytest.raises(CandidateError, match=said):
        PythonScorer(fitness(code, "odd"), "search").score(module)


@pytest.mark.parametrize(
    "returned",
    [
        "[True, False, True]",
        "module(X[split])[:, 0] != 2.5",
        "np.array([1, 0, 1], np.uint8)",
        "(np.float32(1), 0, np.int64(1))",
        "[torch.tensor(1.0), torch.tensor(0), torch.tensor(True)]",
    ],
)
def test_right_or_wrong_is_one_or_zero(code: Path, module: torch.nn.Module, returned: str) -> None:
    code.write_text(f"{CODE}\ndef right(module, split):\n    return {returned}\n")
    found = PythonScorer(fitness(code, "right"), "search").score(module)
    assert found["x"].example_scores == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("raised", ["ValueError('no data')", "SystemExit(3)"])
def test_a_scorer_that_fails_is_named(code: Path, module: torch.nn.Module, raised: str) -> None:
    code.write_text(f"{CODE}\ndef bad(module, split):\n    raise {raised}\n")
    kind, text = raised.rstrip(")").split("(")
    said = f"^tasks.x: code.py:bad: failed: {kind}: " + text.replace("'", "")
    with pytest.raises(CandidateError, match=said):
        PythonScorer(fitness(code, "bad"), "search").score(module)


def test_another_number_of_scores_than_before_is_reported(
    code: Path, module: torch.nn.Module
) -> None:
    one = fitness(code, "unsure")
    scorer = PythonScorer(one, "search")
    first, second = scorer.score(module), scorer.score(module)
    assert (
        count_mismatch(one, first, first)
        is count_mismatch(one, {}, first)
        is count_mismatch(one, second, {})
        is None
    )
    assert count_mismatch(one, second, first) == (
        "tasks.x: code.py:unsure: expected 3 scores, as of the model before, got 2. "
        "Give one for every example, and the same examples for every model."
    )


def test_scorers_that_cannot_be_called_are_reported_before_anything_is_opened(code: Path) -> None:
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
        (
            {"scorer": "a.py:f", "metric": "acc", "held_out": "b"},
            r"held_out: for .*\nmetric: for lm-eval",
        ),
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


def test_a_scorer_that_takes_examples_is_asked_about_a_portion(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "some"), "search")
    whole = scorer.score(module)["x"]
    part = scorer.score(module, portion={"x": (0, 2)})["x"]
    first, _, last = whole.example_scores
    assert part == TaskScores((first + last) / 2, (0, 2), (first, last))
    assert scorer.score(module, portion={}) == {}
    together = scorer.ask_all(several([module, module]), {"x": (1,)})["x"]
    assert together.tolist() == [[whole.example_scores[1]]] * 2


def test_a_scorer_that_answers_more_than_it_was_asked_has_failed(
    code: Path, module: torch.nn.Module
) -> None:
    scorer = PythonScorer(fitness(code, "too_many"), "search")
    with pytest.raises(CandidateError, match="asked about 2, got 3"):
        scorer.score(module, portion={"x": (0, 2)})
