"""A fitness as text."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from evomerge.errors import ConfigError
from evomerge.scoring import Fitness
from evomerge.scoring.texts import Text, _text, search_texts

ROOT = Path(__file__).parents[2]
HERE = str(Path(__file__).parent / "tasks")
ZOO_TASKS = ROOT / "fitness" / "zoo_skills"
LM: Any = SimpleNamespace(rank=0, world_size=1)


def fitness(include_path: str = HERE, **tasks: Any) -> Fitness:
    return Fitness.model_validate({"include_path": include_path, "tasks": tasks})


def test_prompts_are_followed_by_their_answers() -> None:
    lines = (ZOO_TASKS / "data" / "arithmetic.search.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = search_texts(fitness(str(ZOO_TASKS), x="zoo_arithmetic"), LM)
    assert found == [Text(row["prompt"], row["answer"]) for row in rows]


def test_only_the_search_examples_are_read() -> None:
    one = fitness(str(ZOO_TASKS), x={"task": "zoo_arithmetic", "search_examples": 5})
    assert len(search_texts(one, LM)) == 5


def test_of_choices_the_right_one_is_the_answer() -> None:
    found = search_texts(fitness(x="choice"), LM)
    sums = {text.prompt: sum(map(int, text.prompt.removesuffix("=").split("+"))) for text in found}
    # the first choice where none is the sum
    assert all(int(t.target) == (sums[t.prompt] if sums[t.prompt] in (5, 9) else 3) for t in found)
    assert {text.target for text in found} == {"3", "5", "9"}


def test_a_continuation_is_the_answer() -> None:
    found = search_texts(fitness(x="perplexing"), LM)
    assert all(text.prompt.endswith("+") and text.target.endswith("=") for text in found)


def test_tasks_come_one_after_the_other() -> None:
    both = search_texts(fitness(x="choice", y="perplexing"), LM)
    assert both == search_texts(fitness(x="choice"), LM) + search_texts(fitness(x="perplexing"), LM)


def test_a_scorer_asks_no_text() -> None:
    with pytest.raises(ConfigError, match=r"tasks.y: a scorer asks no text. Leave the task out."):
        search_texts(fitness(x="choice", y={"scorer": "a.py:f"}), LM)


def asked(kind: str, *args: tuple[str, ...]) -> list[Any]:
    # in reverse, as lm-eval does not promise an order
    found = [SimpleNamespace(idx=i, request_type=kind, args=a, doc={}) for i, a in enumerate(args)]
    return found[::-1]


def task(**methods: Any) -> Any:
    settings = {"target_delimiter": methods.pop("delimiter", " ")}
    calls = {name: (lambda doc, value=value: value) for name, value in methods.items()}
    return SimpleNamespace(get_config=settings.get, **calls)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("b", "a b"), (["b", "c"], "a b"), (7, "a 7"), ([], None), (None, None)],
)
def test_the_first_of_several_answers_counts(target: Any, expected: str | None) -> None:
    text = _text(task(doc_to_target=target), asked("generate_until", ("a", "...")))
    assert (text and text.prompt + text.target) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [(1, "y"), ("y", "y"), ([1, 0], "y"), (-1, None), (2, None), ("z", None)],
)
def test_the_right_choice_is_named_by_number_or_by_text(target: Any, expected: str | None) -> None:
    one = task(doc_to_text="q", doc_to_target=target, doc_to_choice=["x", "y"])
    text = _text(one, asked("loglikelihood", ("q", "x"), ("q", "y")))
    assert (text and text.target) == expected


def test_a_choice_that_fills_a_gap_is_named_by_the_text() -> None:
    one = task(doc_to_text=1, doc_to_target="end", doc_to_choice=["x", "y"])
    text = _text(one, asked("loglikelihood", ("q x", "end"), ("q y", "end")))
    assert text == Text("q y", "end")


def test_a_text_without_a_prompt_is_all_answer() -> None:
    assert _text(task(), asked("loglikelihood_rolling", ("once",))) == Text("", "once")


def test_examples_without_answers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.task import ConfigurableTask

    monkeypatch.setattr(
        cast(Any, ConfigurableTask), "doc_to_target", lambda self, doc, given=None: ""
    )
    with pytest.raises(ConfigError, match=r"tasks.x: \d+ of \d+ examples of zoo_strings have no"):
        search_texts(fitness(str(ZOO_TASKS), x="zoo_strings"), LM)
