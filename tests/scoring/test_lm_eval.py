"""Scoring against lm-eval itself, on a live zoo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval import evaluator

from evomerge.engines import LmEvalOptions
from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import ConfigError
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.lm_eval import LmEvalScorer
from evomerge.scoring.tasks import example_counts, task_manager
from evomerge.weights.library import Library
from evomerge.weights.plan import make_plan

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
HERE = str(Path(__file__).parent / "tasks")
ZOO_TASKS = str(ROOT / "fitness" / "zoo_skills")


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    """An engine with one expert loaded."""
    yield from opened()


@pytest.fixture(scope="module")
def chat() -> Iterator[TransformersEngine]:
    """The same with a chat template."""
    yield from opened("chatml")


def opened(chat_template: str | None = None) -> Iterator[TransformersEngine]:
    recipe = Recipe(
        base=str(ZOO / "base"),
        sources={"strings": str(ZOO / "strings")},
        operator="linear",
        dtype="bfloat16",
        chat_template=chat_template,
    )
    models = Library().models(recipe)
    engine = TransformersEngine(threads=1)
    engine.open(models)
    engine.load(make_plan(recipe, models))
    yield engine
    engine.close()


def fitness(include_path: str = HERE, **tasks: Any) -> Fitness:
    return Fitness.model_validate({"include_path": include_path, "tasks": tasks})


def plain(engine: TransformersEngine, one: Fitness, task: str, samples: Any = None) -> Any:
    """What lm-eval's own evaluator says of the same model."""
    loaded = task_manager(one).load([task])
    found = evaluator.evaluate(engine.lm, loaded, samples=samples, bootstrap_iters=0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("include_path", "task", "metric", "sign"),
    [
        (ZOO_TASKS, "zoo_strings", "exact_match", 1),
        (HERE, "choice", "acc", 1),
        (HERE, "choice", "acc_norm", 1),
        (HERE, "perplexing", "acc", 1),
    ],
)
def test_scores_are_lm_evals(
    include_path: str, task: str, metric: str, sign: int, engine: TransformersEngine
) -> None:
    one = fitness(include_path, x={"task": task, "metric": metric})
    scores = LmEvalScorer(one, "search", engine.lm).score(engine.lm)["x"]
    theirs = plain(engine, one, task)
    assert scores.score == sign * theirs["results"][task][f"{metric},none"]
    samples = sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])
    assert scores.example_scores == tuple(sign * float(sample[metric]) for sample in samples)


@pytest.mark.parametrize(
    "options",
    [
        {"apply_chat_template": True, "num_fewshot": 2},
        {"apply_chat_template": True, "num_fewshot": 2, "fewshot_as_multiturn": False},
        {"apply_chat_template": True, "system_instruction": "12"},
        {"system_instruction": "12"},
        {"gen_kwargs": {"until": ["3"], "max_gen_toks": 5}, "num_fewshot": 1},
    ],
)
@pytest.mark.parametrize(
    ("path", "task"),
    [
        (HERE, "shots"),
        pytest.param(ZOO_TASKS, "zoo_strings", marks=pytest.mark.slow),
        pytest.param(HERE, "choice", marks=pytest.mark.slow),
    ],
)
def test_prompts_and_scores_are_those_of_simple_evaluate_with_the_same_options(
    options: dict[str, Any], path: str, task: str, chat: TransformersEngine
) -> None:
    one = fitness(path, x={"task": task})
    scorer = LmEvalScorer(one, "search", chat.lm, LmEvalOptions(**options))
    given = {"fewshot_as_multiturn": True} | options
    given["gen_kwargs"] = dict(given.get("gen_kwargs", {}))  # lm-eval changes it
    found = evaluator.simple_evaluate(
        chat.lm, tasks=[task], task_manager=task_manager(one), bootstrap_iters=0, **given
    )
    assert found is not None
    theirs = {
        sample["doc_id"]: [tuple(a) for a in sample["arguments"]]
        for sample in found["samples"][task]
    }
    ours = {
        doc: [instance.args for instance in instances]
        for doc, instances in scorer.requests("x").items()
    }
    assert ours == theirs
    metric = next(key for key in found["results"][task] if key.endswith(",none"))
    assert abs(scorer.score(chat.lm)["x"].score) == found["results"][task][metric]


def test_a_chat_without_a_template_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(ConfigError, match=r"has no chat template. Set chat_template"):
        LmEvalScorer(
            fitness(x={"task": "choice"}),
            "search",
            engine.lm,
            LmEvalOptions(apply_chat_template=True),
        )


def test_the_examples_of_the_fitness_come_before_those_of_the_engine(
    engine: TransformersEngine,
) -> None:
    tasks: dict[str, Any] = {"x": {"task": "shots", "num_fewshot": 0}, "y": {"task": "shots"}}
    one = fitness(**tasks, z={"task": "choice"})
    scorer = LmEvalScorer(one, "search", engine.lm, LmEvalOptions(num_fewshot=1))
    shots = {name: scorer.requests(name)[0][0].args[0].count("+") - 1 for name in "xyz"}
    assert shots == {"x": 0, "y": 1, "z": 0}  # lm-eval has it that a task that says 0 wants none


def test_more_examples_to_show_than_there_are_is_a_mistake(engine: TransformersEngine) -> None:
    one = fitness(x={"task": "shots"})
    LmEvalScorer(one, "search", engine.lm, LmEvalOptions(num_fewshot=32))
    with pytest.raises(ConfigError, match=r"x.num_fewshot: 33 examples to show, shots has 32"):
        LmEvalScorer(one, "search", engine.lm, LmEvalOptions(num_fewshot=33))


def test_where_less_is_better_the_sign_flips(engine: TransformersEngine) -> None:
    one = fitness(x={"task": "perplexing", "metric": "perplexity"})
    scores = LmEvalScorer(one, "search", engine.lm).score(engine.lm)["x"]
    assert (
        scores.score
        == -plain(engine, one, "perplexing")["results"]["perplexing"]["perplexity,none"]
    )
    assert scores.score < 0


def test_a_subset_scores_the_same_examples_as_lm_eval(engine: TransformersEngine) -> None:
    one = fitness(ZOO_TASKS, x={"task": "zoo_strings", "search_examples": 20})
    scores = LmEvalScorer(one, "search", engine.lm).score(engine.lm)["x"]
    theirs = plain(engine, one, "zoo_strings", {"zoo_strings": list(scores.doc_ids)})
    by_id = {s["doc_id"]: s["exact_match"] for s in theirs["samples"]["zoo_strings"]}
    assert scores.example_scores == tuple(by_id[i] for i in scores.doc_ids)


def test_the_tokens_of_answers_are_counted_without_what_stops_them(
    engine: TransformersEngine,
) -> None:
    one = fitness(ZOO_TASKS, x={"task": "zoo_strings", "search_examples": 20})
    scorer = LmEvalScorer(one, "search", engine.lm)
    assert scorer.generated_tokens == 0
    scorer.score(engine.lm)
    answers = [i.resps[0] for instances in scorer.requests("x").values() for i in instances]
    vocabulary = engine.lm.tokenizer.get_vocab()
    assert all(character in vocabulary for answer in answers for character in answer)
    assert scorer.generated_tokens == sum(map(len, answers)) > 20


def test_rated_choices_are_no_generated_tokens(engine: TransformersEngine) -> None:
    scorer = LmEvalScorer(fitness(x={"task": "choice"}), "search", engine.lm)
    scorer.score(engine.lm)
    assert scorer.generated_tokens == 0


def test_asking_twice_gives_the_same(engine: TransformersEngine) -> None:
    scorer = LmEvalScorer(fitness(x={"task": "choice"}), "search", engine.lm)
    assert scorer.score(engine.lm) == scorer.score(engine.lm)


def test_search_and_held_out_examples_of_one_task_are_disjoint(engine: TransformersEngine) -> None:
    one = fitness(x={"task": "choice", "search_examples": 10, "held_out_examples": 15})
    search, held_out = (
        LmEvalScorer(one, split, engine.lm).score(engine.lm)["x"].doc_ids
        for split in ("search", "held_out")
    )
    assert (len(search), len(held_out)) == (10, 15)
    assert not set(search) & set(held_out)
    assert list(search) == sorted(search)


def test_a_fitness_without_held_out_examples_has_none(engine: TransformersEngine) -> None:
    one = fitness(x={"task": "choice"})
    assert LmEvalScorer(one, "held_out", engine.lm).score(engine.lm) == {}
    assert example_counts(one) == {"search": {"x": 32}, "held_out": {}}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"task": "choice", "metric": "acc_nrom"}, "no metric 'acc_nrom'. Did you mean 'acc_norm'"),
        ({"task": "choice", "filter": "strict"}, "no filter 'strict'"),
        ({"task": "choice", "search_examples": 33}, "search wants 33 examples, choice has 32"),
    ],
)
def test_what_a_task_does_not_have_is_refused_before_any_work(
    task: dict[str, Any], message: str, engine: TransformersEngine
) -> None:
    with pytest.raises(ConfigError, match=message):
        LmEvalScorer(fitness(x=task), "search", engine.lm)


def test_a_search_on_as_many_examples_as_there_are_asks_them_all(
    engine: TransformersEngine,
) -> None:
    one = fitness(x={"task": "choice", "search_examples": 32})
    assert LmEvalScorer(one, "search", engine.lm).doc_ids()["choice"] == (
        "x",
        tuple(range(32)),
        True,
    )


def test_the_digest_follows_the_data_and_not_the_folder(tmp_path: Path) -> None:
    copies = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("choice.yaml", "choice.py"):
            (folder / file).write_text((Path(HERE) / file).read_text())
        copies.append(fitness(str(folder), x={"task": "choice"}))
    assert copies[0].digest == copies[1].digest
    (tmp_path / "two" / "choice.py").write_text("# other data\n")
    assert copies[0].digest != copies[1].digest


@pytest.mark.parametrize(
    ("path", "task", "other"),
    [
        (HERE, "choice", "shots"),
        (HERE, "shots", "choice"),
        (ZOO_TASKS, "zoo_strings", "zoo_arithmetic"),
    ],
)
def test_a_portion_is_scored_as_it_is_among_all_examples(
    path: str, task: str, other: str, engine: TransformersEngine
) -> None:
    one = fitness(path, x={"task": task, "search_examples": 6}, y={"task": other})
    scorer = LmEvalScorer(one, "search", engine.lm)
    whole = scorer.score(engine.lm)
    for places in ((0,), (1, 4, 5), (2, 3), tuple(range(6))):
        ids = tuple(whole["x"].doc_ids[place] for place in places)
        part = scorer.score(engine.lm, {"x": ids})
        assert list(part) == ["x"]
        assert part["x"].doc_ids == ids
        assert part["x"].example_scores == tuple(whole["x"].example_scores[p] for p in places)
        assert part["x"].score == sum(part["x"].example_scores) / len(places)
    assert scorer.score(engine.lm) == whole
