"""What `check` finds wrong in the tasks of a fitness, from names and data alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.scoring import Fitness, tasks
from evomerge.scoring.by_example import search_examples
from evomerge.scoring.tasks import example_counts, survey_tasks

HERE = str(Path(__file__).parent / "tasks")
HOLDING = {"held_out": "other_choice", "held_out_examples": 4}


def fitness(**tasks: Any) -> Fitness:
    return Fitness.model_validate({"include_path": HERE, "tasks": tasks})


def sentences(fitness: Fitness) -> list[str]:
    return list(map(str, survey_tasks(fitness).problems))


def test_a_sound_fitness_has_no_problems() -> None:
    one = fitness(a={"task": "choice", "search_examples": 10}, b={"task": "perplexing", **HOLDING})
    assert survey_tasks(one).problems == []
    assert example_counts(one) == {"search": {"a": 10, "b": 32}, "held_out": {"a": 22, "b": 4}}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"task": "choice", "metric": "acc_nrom"},
            "tasks.x: choice has no metric 'acc_nrom'. Did you mean 'acc_norm'?",
        ),
        (
            {"task": "choice", "filter": "strict"},
            "tasks.x: choice has no filter 'strict'. Known: none.",
        ),
        (
            {"task": "perplexing", "metric": "perplexity", **HOLDING},
            "tasks.x: other_choice has no metric 'perplexity'. Known: acc, acc_norm.",
        ),
        (
            {"task": "choice", "search_examples": 33, "held_out": "other_choice"},
            "tasks.x: search wants 33 examples, choice has 32 in all. Ask for fewer.",
        ),
        (
            {"task": "perplexing", "held_out": "choice", "held_out_examples": 33},
            "tasks.x: held_out wants 33 examples, choice has 32 in all. Ask for fewer.",
        ),
        (
            {"task": "choice", "search_examples": 10, "held_out_examples": 23},
            "tasks.x: held_out wants 23 examples, choice has 32 in all, "
            "10 of them for the search. Ask for fewer.",
        ),
        (
            {"task": "choice", "search_examples": 32},
            "tasks.x: held_out wants some examples, choice has 32 in all, "
            "32 of them for the search. Ask for fewer.",
        ),
        (
            {"task": "shots", "num_fewshot": 1_000_000},
            "tasks.x.num_fewshot: 1000000 examples to show, shots has 32. Show fewer.",
        ),
        (
            {"task": "offline"},
            "tasks.x: the data of offline cannot be loaded: the hub cannot be reached",
        ),
        ({"task": "choise"}, "no lm-eval task is called 'choise'. Did you mean 'choice'?"),
    ],
)
def test_a_mistake_is_reported_with_its_cure(task: dict[str, Any], message: str) -> None:
    assert sentences(fitness(x=task)) == [message]
    with pytest.raises(ConfigError) as caught:
        example_counts(fitness(x=task))
    assert caught.value.problems == (message,)


def test_all_mistakes_are_reported_at_once() -> None:
    one = fitness(
        a={"task": "choise", "search_examples": 5},
        b={"task": "perplexing", "metric": "ac", "filter": "nome", "search_examples": 5},
        c={"task": "choice"},
    )
    assert sentences(one) == [
        "no lm-eval task is called 'choise'. Did you mean 'choice'?",
        "tasks.c: holds nothing out though others do. Give it held_out or search_examples.",
        "tasks.b: perplexing has no metric 'ac'. Did you mean 'acc'?",
        "tasks.b: perplexing has no filter 'nome'. Did you mean 'none'?",
    ]


def test_draws_that_meet_by_chance_are_a_leak() -> None:
    some = {"held_out": "choice", "held_out_examples": 20}
    one = fitness(
        a={"task": "perplexing", **some},
        b={"task": "choice", "search_examples": 20, "held_out": "other_choice"},
    )
    assert sentences(one) == [
        "tasks.a: holds out examples of choice that tasks.b searches on. "
        "Name another task in held_out, or give search_examples in its place."
    ]


def test_a_mistyped_own_task_is_reported_without_the_index_of_lm_eval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(tasks, "_with_defaults")
    assert sentences(fitness(x="perplexin")) == [
        "no lm-eval task is called 'perplexin'. Did you mean 'perplexing'?"
    ]


@pytest.mark.slow  # an index of lm-eval's 14 000 files that no other test can share
def test_a_task_of_lm_eval_is_found_though_an_own_one_is_called_alike(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: arc_easy_\noutput_type: multiple_choice\n")
    known = Fitness.model_validate({"include_path": str(tmp_path), "tasks": ["arc_easy"]})
    assert tasks._unknown_tasks(known) == {}


def test_a_mistyped_task_of_lm_eval_is_reported_with_the_nearest_name() -> None:
    one = Fitness.model_validate({"tasks": ["hellaswagg"]})
    assert sentences(one) == ["no lm-eval task is called 'hellaswagg'. Did you mean 'hellaswag'?"]


def test_lm_evals_index_is_built_once() -> None:
    one = Fitness.model_validate({"tasks": ["hellaswag"]})
    assert tasks.task_manager(one) is tasks.task_manager(one)


def test_only_scores_that_are_means_of_examples_can_be_asked_of_some() -> None:
    one = fitness(
        x={"task": "perplexing", "metric": "perplexity"},
        y={"task": "perplexing", "metric": "acc"},
        z={"task": "choice"},
    )
    known = search_examples(one)
    assert known.indivisible == {"x": "perplexity is no mean over its examples."}
    assert known.counts == {"x": 32, "y": 32, "z": 32}
    assert not known.generated
    assert search_examples(fitness(x={"task": "shots"})).generated
