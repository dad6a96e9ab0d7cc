"""The digits benchmark: its loop and the engine agree on weights and on scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import digits
import numpy as np
import pytest
import torch
from classifier import SIZE, Classifier
from loop import Population, best_mixture, search
from methods import METHODS, Method
from report import distances, mean_at, table
from starts import _key, _split

from evomerge.engines.torch import TorchEngine
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.plan import make_plan

HERE = Path(__file__).parents[2] / "experiments" / "m2n2_digits"
BY_NAME = {method.name: method for method in METHODS}


@pytest.fixture
def engine() -> Iterator[TorchEngine]:
    found = TorchEngine(module=str(HERE / "digits.py:build"), threads=1)
    yield found
    found.close()


@pytest.mark.parametrize("name", ["M2N2, from scratch", "MAP-Elites", "M2N2, pretrained"])
def test_the_engine_makes_and_scores_what_the_loop_did(
    name: str, engine: TorchEngine, tmp_path: Path
) -> None:
    population = Population(BY_NAME[name], 42, tmp_path / "starts")
    for _ in population.evolve(150):
        pass
    best = population.best()
    recipe = population.recipe(best)
    models = Library().models(recipe)
    engine.open(models)
    engine.load(make_plan(recipe, models))
    elements = torch.cat([p.detach().reshape(-1) for p in engine.module.parameters()])
    assert elements.numpy().tobytes() == population.elements[best].tobytes()
    with torch.inference_mode():
        for split in ("search", "held_out"):
            solved = Classifier.of(split).solved(population.elements[best])
            scores = digits.accuracy(engine.module, split)
            assert np.array_equal(scores.numpy(), solved.astype(np.float32)), split


def test_the_recipe_of_a_mutant_builds_to_the_bytes_that_were_scored(tmp_path: Path) -> None:
    population = Population(BY_NAME["M2N2, from scratch"], 43, tmp_path / "starts")
    for _ in population.evolve(200):
        pass
    best = population.best()
    recipe = population.recipe(best)
    assert recipe.lineage is not None and len(recipe.lineage.steps) > 8
    folder = build(recipe, tmp_path / "out")
    built = Library().open(str(folder), {"it": str(folder)})
    found = torch.cat([built.sources["it"].read(s.name).reshape(-1) for s in built.slots])
    assert found.numpy().tobytes() == population.elements[best].tobytes()


def test_two_runs_from_one_seed_are_the_same() -> None:
    first, second = (search(BY_NAME["MAP-Elites"], 3, 100) for _ in range(2))
    assert first.curve == second.curve
    assert first.recipe is not None and second.recipe is not None
    assert (
        first.recipe.model_copy(update={"base": "b", "sources": second.recipe.sources}).lineage
        == second.recipe.lineage
    )


def test_the_generator_of_the_pretrained_models_is_that_of_jax() -> None:
    # jax.random.split(jax.random.PRNGKey(42)) of jax 0.4
    assert _split(_key(42)).tolist() == [[2465931498, 3679230171], [255383827, 267815257]]


def test_the_best_mixture_of_the_pretrained_models_is_the_published_one() -> None:
    assert (
        round(100 * best_mixture(1000), 1) == BY_NAME["brute force, pretrained"].published[500][0]
    )


def test_images_in_another_order_are_solved_in_that_order() -> None:
    classifier = Classifier.of("held_out")
    weights = np.random.default_rng(0).normal(scale=0.1, size=SIZE).astype(np.float32)
    parity = classifier.labels % 2
    solved = classifier.solved(weights)
    assert 0 < solved.sum() < len(solved)
    expected = np.concatenate([solved[parity == 0], solved[parity == 1]])
    assert np.array_equal(classifier.sorted(parity).solved(weights), expected)


def test_the_mean_of_runs_has_its_standard_error() -> None:
    runs = [{500: 0.1}, {500: 0.2}, {500: 0.3, 1000: 0.5}]
    at_500, at_1000 = mean_at(runs, 500), mean_at(runs, 1000)
    assert at_500 is not None and at_1000 is not None
    assert at_500 == pytest.approx((20, 10 / 3**0.5, 3))
    assert at_1000 == (50, None, 1)
    assert mean_at(runs, 2000) is None


def test_the_published_method_has_a_row_where_it_was_run_again() -> None:
    none: dict[str, list[dict[int, float]]] = {method.name: [] for method in METHODS}
    found = none | {"GA": [{500: 0.25}, {500: 0.35}]}
    again = none | {"GA": [{500: 0.5, 1000: 0.625}]}
    assert len(table(none, none).splitlines()) == 2 + 2 * len(METHODS)
    rows = table(found, again).splitlines()
    (place,) = (number for number, row in enumerate(rows) if row.startswith("| GA (2) "))
    assert rows[place] == "| GA (2) | 30.0 ± 5.0 |  |  |  |  |"
    assert rows[place + 1].startswith("| *published* | 33.8 ± 4.9 | 43.5 ± 2.5 |")
    assert rows[place + 2] == "| *published code, written again* (1) | 50.0 | 62.5 |  |  |  |"
    assert rows[place + 3].startswith("| MAP-Elites (0) ")


def test_distances_are_in_errors_of_samples() -> None:
    none: dict[str, list[dict[int, float]]] = {method.name: [] for method in METHODS}
    assert distances(none) == []
    # published: 33.8 ± 4.9 of three runs, which as a sample's is ± 6.0; no error at 1000
    (apart,) = distances(none | {"GA": [{500: 0.408}, {500: 0.508}, {700: 1.0}]})
    assert (apart.method, apart.evaluations) == ("GA", 500)
    assert apart.published_errors == pytest.approx(12 / (4.9 * 1.5**0.5))
    assert apart.both_errors == pytest.approx(12 / (4.9**2 * 1.5 + 5**2) ** 0.5)


def test_every_method_has_a_file_name_of_its_own() -> None:
    assert len({method.slug for method in METHODS}) == len(METHODS)
    assert all(isinstance(method, Method) and method.runs >= 1 for method in METHODS)
