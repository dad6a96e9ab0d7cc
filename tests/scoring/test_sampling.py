"""Sampled answers: of the model, the example and the repeat, of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.engines import LmEvalOptions
from evomerge.engines._hf_lm import _Noise
from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import ConfigError
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.lm_eval import LmEvalScorer
from evomerge.weights.library import Library

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
HERE = str(Path(__file__).parent / "tasks")
SAMPLED = Fitness.model_validate({"include_path": HERE, "tasks": {"x": {"task": "sampled"}}})
EVERY = range(32)


def mixture(**weights: float) -> Recipe:
    sources = {name: str(ZOO / name) for name in ("strings", "kanji")}
    parameters = {"weight": {"strings": 0.0, "kanji": 0.0} | weights}
    common = {"base": str(ZOO / "base"), "operator": "linear", "dtype": "float32"}
    return Recipe.model_validate({**common, "sources": sources, "parameters": parameters})


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    engine = TransformersEngine(threads=1, batch_size=7)
    engine.open(Library().models(mixture()))
    yield engine
    engine.close()


def answers(
    engine: TransformersEngine,
    recipe: Recipe,
    examples: Any = EVERY,
    seed: int = 0,
    **gen_kwargs: Any,
) -> dict[int, list[str]]:
    """Document to its answers, one for each repeat."""
    engine.load(Library().plan(recipe))
    options = LmEvalOptions(gen_kwargs=gen_kwargs)
    scorer = LmEvalScorer(SAMPLED, "search", engine.lm, options, seed)
    scorer.score(engine.lm, {"x": tuple(examples)})
    requests = list(scorer.requests("x").values())
    return {doc_id: requests[doc_id][0].resps for doc_id in examples}


@pytest.fixture(scope="module")
def alone(engine: TransformersEngine) -> dict[int, list[str]]:
    """Every example asked of the experts' mean, all in one pass."""
    return answers(engine, mixture(strings=0.5, kanji=0.5))


def test_repeats_and_examples_draw_of_their_own(alone: dict[int, list[str]]) -> None:
    assert all(len(repeats) == 2 for repeats in alone.values())
    assert sum(one != other for one, other in alone.values()) > 25
    assert len({tuple(repeats) for repeats in alone.values()}) > 25


@pytest.mark.parametrize("examples", [EVERY, (3,), (3, 4, 9, 30, 31), tuple(range(0, 32, 2))])
def test_an_answer_is_the_same_whatever_else_is_asked(
    examples: Any, engine: TransformersEngine, alone: dict[int, list[str]]
) -> None:
    answers(engine, mixture(kanji=1.0))  # another candidate, asked before
    found = answers(engine, mixture(strings=0.5, kanji=0.5), examples)
    assert found == {doc_id: alone[doc_id] for doc_id in examples}


def test_a_recipe_of_equal_weights_gives_the_same_answers(
    engine: TransformersEngine, alone: dict[int, list[str]]
) -> None:
    assert answers(engine, mixture(strings=2.0, kanji=2.0)) == alone  # they are normalized


def test_another_seed_draws_others(engine: TransformersEngine, alone: dict[int, list[str]]) -> None:
    assert answers(engine, mixture(strings=0.5, kanji=0.5), seed=1) != alone


def test_the_seed_of_the_generation_options_comes_before_the_engines(
    engine: TransformersEngine, alone: dict[int, list[str]]
) -> None:
    recipe = mixture(strings=0.5, kanji=0.5)
    told = LmEvalOptions(gen_kwargs={"seed": 0})
    scorer = LmEvalScorer(SAMPLED, "search", engine.lm, told, seed=2)
    engine.load(Library().plan(recipe))
    scorer.score(engine.lm)
    assert [one.resps for (one,) in scorer.requests("x").values()] == list(alone.values())


def test_temperature_and_top_k_come_before_the_draw(engine: TransformersEngine) -> None:
    recipe = mixture(strings=0.5, kanji=0.5)
    greedy = answers(engine, recipe, do_sample=False, temperature=0.0)
    assert all(one == other for one, other in greedy.values())
    assert answers(engine, recipe, top_k=1) == greedy
    assert answers(engine, recipe, temperature=1e-6) == greedy
    assert answers(engine, recipe, top_k=1, temperature=5.0) == greedy


def test_chances_are_those_of_the_logits() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    rows = 20_000
    noise = _Noise(range(rows), torch.device("cpu"))
    drawn = noise(torch.empty(rows, 0), logits.expand(rows, 4)).argmax(1)
    found, chances = torch.bincount(drawn, minlength=4) / rows, logits.softmax(0)
    assert found[3] == 0
    assert (found - chances).abs().max() < 4 * (0.25 / rows) ** 0.5


def test_the_draws_of_a_row_are_its_own_step_after_step() -> None:
    both, one = _Noise([1, 2], torch.device("cpu")), _Noise([2], torch.device("cpu"))
    tokens, zeros = torch.empty(2, 0), torch.zeros(2, 5)
    for _ in range(3):
        assert torch.equal(both(tokens, zeros)[1:], one(tokens[1:], zeros[1:]))


def test_sampled_beams_are_refused(engine: TransformersEngine) -> None:
    with pytest.raises(ConfigError, match=r"sampled answers have no beams. Set num_beams: 1"):
        answers(engine, mixture(strings=1.0), num_beams=2)
