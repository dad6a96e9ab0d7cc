"""Problems as data, and the sentences that are made of them."""

from __future__ import annotations

import pytest

from evomerge.errors import ConfigError, Problem


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (Problem((), "no such folder"), "no such folder"),
        (Problem(("stages", 0, "space"), "unknown."), "stages.0.space: unknown."),
        (Problem(("seed",), "got -1.", " Raise it."), "seed: got -1. Raise it."),
        (Problem(("seed",), "got -1", file="a.yaml"), "a.yaml: seed: got -1"),
        (Problem(("a",), "wrong").under("b", 1).within("c.yaml"), "c.yaml: b.1.a: wrong"),
        (Problem((), "wrong", file="--set").within("c.yaml"), "--set: wrong"),
    ],
)
def test_a_problem_is_one_sentence(problem: Problem, sentence: str) -> None:
    assert str(problem) == sentence


def test_an_error_has_problems_as_data_and_as_sentences() -> None:
    error = ConfigError([Problem(("seed",), "got -1"), "no such folder"])
    assert error.details == (Problem(("seed",), "got -1"), Problem((), "no such folder"))
    assert error.problems == ("seed: got -1", "no such folder")
    assert str(error) == "seed: got -1\nno such folder"
    assert ConfigError("no such folder").problems == ("no such folder",)
