from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.cmaes import Cmaes
from evomerge.plugins import registry
from evomerge.types import Evaluation, Gene, Genome, Parameter

FAILED = Evaluation("failed", error="it does not load")


def _floats(count: int, initial: float = 0.5) -> list[Parameter]:
    return [Parameter(f"w[{i}]", "float", initial) for i in range(count)]


def _vector(genome: Genome | None) -> np.ndarray:
    assert genome is not None
    return np.array([float(gene) for gene in genome.genes.values()])


def _generation(optimizer: Cmaes, first: int = 0) -> dict[int, Genome]:
    """All of a generation, asked until the optimizer waits."""
    asked: dict[int, Genome] = {}
    while (genome := optimizer.ask(first + len(asked))) is not None:
        asked[first + len(asked)] = genome
    return asked


def _run(optimizer: Cmaes, fitness: Callable[[Genome], float], generations: int) -> Genome:
    number = 0
    for _ in range(generations):
        asked = _generation(optimizer, number)
        number += len(asked)
        for each, genome in asked.items():
            optimizer.tell(each, Evaluation("done", value=fitness(genome)))
    recommended = optimizer.recommend()
    assert recommended is not None
    return recommended


def _sphere(optimum: Sequence[float] | float) -> Callable[[Genome], float]:
    return lambda genome: -float(np.sum((_vector(genome) - optimum) ** 2))


@pytest.mark.parametrize(("count", "population"), [(1, 24), (18, 24), (20, 24), (21, 26), (96, 34)])
def test_the_default_population_is_twice_the_librarys_and_24_at_least(
    count: int, population: int
) -> None:
    optimizer = Cmaes(_floats(count), 0)
    assert optimizer.population_size == population
    assert len(_generation(optimizer)) == population


def test_fixed_parameters_do_not_count_as_dimensions() -> None:
    fixed = [Parameter(f"f{i}", "float", 0.2, low=0.2, high=0.2) for i in range(300)]
    optimizer = Cmaes([*_floats(2), *fixed], 0)
    assert (optimizer.population_size, optimizer.algorithm) == (24, "CMA")


@pytest.mark.parametrize(
    ("parameters", "algorithm"),
    [
        (_floats(1), "CMA"),
        (_floats(200), "CMA"),
        (_floats(201), "SepCMA"),
        ([*_floats(1), Parameter("k", "int", 1, low=0, high=5)], "CatCMAwM"),
        ([*_floats(1), Parameter("b", "bool", True)], "CatCMAwM"),
        ([*_floats(1), Parameter("c", "choice", "a", choices=("a", "b"))], "CatCMAwM"),
        ([*_floats(201), Parameter("b", "bool", True)], "CatCMAwM"),
        ([*_floats(1), Parameter("c", "choice", "a", choices=("a",))], "CMA"),
    ],
)
def test_the_parameters_decide_the_algorithm(parameters: list[Parameter], algorithm: str) -> None:
    assert Cmaes(parameters, 0).algorithm == algorithm


@pytest.mark.parametrize(
    "parameters",
    [
        [],
        [Parameter("w", "float", 1.0, low=1.0, high=1.0)],
        [Parameter("k", "int", 3, low=3, high=3)],
    ],
)
def test_a_space_without_anything_to_vary_is_refused(parameters: list[Parameter]) -> None:
    with pytest.raises(ConfigError, match="Widen the bounds"):
        Cmaes(parameters, 0)


@pytest.mark.parametrize("options", [{"population_size": 3}, {"sigma": 0}, {"popsize": 12}])
def test_options_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.{next(iter(options))}: "):
        registry.validate_options(Cmaes, options, "optimizer")


def test_ask_waits_from_the_last_of_a_generation_until_all_of_it_is_reported() -> None:
    optimizer = Cmaes(_floats(3), 0, population_size=4)
    assert len(_generation(optimizer)) == 4
    for number in (2, 0, 3):
        optimizer.tell(number, FAILED if number == 3 else Evaluation("done", value=float(number)))
        assert optimizer.ask(4) is None
    optimizer.tell(1, Evaluation("done", value=9.0))
    assert optimizer.ask(4) is not None


def test_the_first_generation_is_centred_on_the_initial_values() -> None:
    optimizer = Cmaes(_floats(4, initial=0.4), 0, population_size=400)
    genes = np.array([_vector(genome) for genome in _generation(optimizer).values()])
    assert np.allclose(genes.mean(axis=0), 0.4, atol=0.03)
    assert np.allclose(genes.std(axis=0), 0.12, atol=0.02)


def test_choices_start_as_their_initial_value_and_three_sigma_of_chance() -> None:
    parameters = [
        Parameter("b", "bool", True),
        Parameter("c", "choice", "z", choices=("x", "y", "z", "t")),
    ]
    genomes = _generation(Cmaes(parameters, 0, population_size=2000)).values()
    assert abs(np.mean([genome.genes["b"] is True for genome in genomes]) - 0.82) < 0.03
    assert abs(np.mean([genome.genes["c"] == "z" for genome in genomes]) - 0.73) < 0.03
    assert abs(np.mean([genome.genes["c"] == "t" for genome in genomes]) - 0.09) < 0.03


@pytest.mark.parametrize(
    ("besides", "options", "algorithm", "within"),
    [
        ([], {}, "CMA", 0.5),
        ([], {"correlation": 0.0}, "CMA", 0.0),
        ([Parameter("k", "int", 4, low=0, high=8)], {}, "CatCMAwM", 0.5),
        ([Parameter(f"v{i}", "float", 0.5) for i in range(200)], {}, "SepCMA", 0.0),
    ],
)
def test_genes_of_one_group_begin_by_moving_together(
    besides: list[Parameter], options: dict[str, float], algorithm: str, within: float
) -> None:
    groups = {"a[0]": "a", "a[1]": "a", "b[0]": "b"}
    grouped = [Parameter(name, "float", 0.5, group=group) for name, group in groups.items()]
    optimizer = Cmaes([*grouped, *besides], 0, population_size=4000, **options)
    assert optimizer.algorithm == algorithm
    genomes = _generation(optimizer).values()
    genes = np.array([[float(genome.genes[name]) for name in groups] for genome in genomes])
    found = np.corrcoef(genes.T)
    assert abs(found[0, 1] - within) < 0.05
    assert abs(found[0, 2]) < 0.05


def test_recommend_is_none_until_a_generation_taught_something() -> None:
    optimizer = Cmaes(_floats(2), 0, population_size=4)
    for value in (None, 0.5):  # all failed, then all tied
        assert optimizer.recommend() is None
        for number in _generation(optimizer):
            optimizer.tell(number, FAILED if value is None else Evaluation("done", value=value))
    assert optimizer.recommend() is None


def test_recommend_is_the_weighted_mean_of_the_best_half() -> None:
    """Hansen 2016, eq. 41 with the weights of eq. 49 to 53, from a step of size one."""
    optimizer = Cmaes(_floats(3), 1, population_size=6)
    asked = _generation(optimizer)
    for number in asked:
        optimizer.tell(number, Evaluation("done", value=float(number)))
    weights = np.array([math.log(3.5) - math.log(rank) for rank in (1, 2, 3)])
    best = np.array([_vector(asked[number]) for number in (5, 4, 3)])
    expected = weights / weights.sum() @ best
    assert np.allclose(_vector(optimizer.recommend()), expected, atol=1e-12)


def test_recommend_of_a_mix_rounds_and_takes_the_most_probable() -> None:
    parameters = [
        Parameter("w", "float", 0.5),
        Parameter("k", "int", 1, low=0, high=8),
        Parameter("b", "bool", False),
        Parameter("c", "choice", "x", choices=("x", "y", "z")),
    ]

    def fitness(genome: Genome) -> float:
        genes = genome.genes
        number = (float(genes["w"]) - 0.8) ** 2 + (int(genes["k"]) - 6) ** 2 / 64
        return -number - 0.2 * (genes["b"] is False) - 0.2 * bool(genes["c"] != "y")

    found = _run(Cmaes(parameters, 0), fitness, 25).genes
    assert abs(float(found["w"]) - 0.8) < 0.01
    assert {key: found[key] for key in "kbc"} == {"k": 6, "b": True, "c": "y"}


@pytest.mark.parametrize("failures", [{1}, {0, 2, 5}])
def test_failed_candidates_rank_below_every_valid_one(failures: set[int]) -> None:
    """So the next generation is that of very low values in their place."""
    followers = []
    for bad in (FAILED, Evaluation("done", value=-1e9), Evaluation("done", value=math.nan)):
        optimizer = Cmaes(
            [*_floats(2), Parameter("k", "int", 2, low=0, high=5)], 3, population_size=8
        )
        for number in _generation(optimizer):
            valid = Evaluation("done", value=-1e6 - number)
            optimizer.tell(number, bad if number in failures else valid)
        followers.append(_generation(optimizer, 8))
    assert followers[0] == followers[1] == followers[2]


def test_only_the_order_of_the_values_matters() -> None:
    def run(transform: Callable[[float], float]) -> Genome:
        parameters = [*_floats(2, initial=1.0), Parameter("b", "bool", True)]
        return _run(Cmaes(parameters, 3), lambda g: transform(_sphere(0.9)(g)), 5)

    assert run(lambda value: value) == run(lambda value: 100 * math.exp(value) - 7)


@pytest.mark.parametrize("count", [1, 2, 6, 20])
def test_cma_reaches_the_optimum_of_a_sphere_to_six_digits(count: int) -> None:
    found = _run(Cmaes(_floats(count, initial=0.2), 0), _sphere(0.7), 60 + 8 * count)
    assert np.allclose(_vector(found), 0.7, atol=1e-6)


def test_sep_cma_reaches_the_optimum_of_a_sphere_to_two_digits() -> None:
    found = _run(Cmaes(_floats(201), 0), _sphere(0.6), 225)
    assert np.allclose(_vector(found), 0.6, atol=1e-2)


def test_an_optimum_in_a_corner_is_reached_to_six_digits() -> None:
    found = _run(Cmaes(_floats(4), 0), _sphere([0.0, 1.0, 1.0, 0.0]), 120)
    assert np.allclose(_vector(found), [0.0, 1.0, 1.0, 0.0], atol=1e-6)


def test_log_parameters_are_searched_in_their_logarithm() -> None:
    parameters = [
        Parameter(f"r{i}", "float", 1e-2, low=1e-6, high=1.0, scale="log") for i in range(2)
    ]

    def fitness(genome: Genome) -> float:
        return -float(np.sum((np.log10(_vector(genome)) + 5) ** 2))

    found = _run(Cmaes(parameters, 0), fitness, 60)
    assert np.allclose(np.log10(_vector(found)), -5, atol=1e-6)


def test_integers_reach_an_optimum_at_their_bound() -> None:
    parameters = [Parameter(f"k{i}", "int", 5, low=0, high=10) for i in range(5)]
    assert set(_run(Cmaes(parameters, 0), _sphere(10), 40).genes.values()) == {10}


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Parameter("k", "int", 1, low=0, high=3)],
        [
            Parameter("c", "choice", "a", choices=("a", "b")),
            Parameter("k", "int", 1, low=0, high=3),
        ],
    ],
)
def test_it_has_converged_when_what_it_draws_hardly_differs(others: list[Parameter]) -> None:
    optimizer = Cmaes([*_floats(3), *others], 0)

    def fitness(genome: Genome) -> float:
        # the third does not matter, and strays on
        return -sum((float(genome.genes[f"w[{i}]"]) - 0.4) ** 2 for i in range(2))

    generations = 0
    while not optimizer.has_converged and generations < 80:
        found = _run(optimizer, fitness, 1)
        generations += 1
    assert 5 < generations < 80
    assert found.genes["w[0]"] == pytest.approx(0.4, abs=0.01)
    assert found.genes["w[1]"] == pytest.approx(0.4, abs=0.01)


def test_choices_alone_never_converge_and_a_small_sigma_not_at_once() -> None:
    choices = Cmaes([Parameter(f"b{i}", "bool", True) for i in range(3)], 0)
    _run(choices, lambda genome: float(genome.genes["b0"] is True), 40)
    assert not choices.has_converged
    near = Cmaes(_floats(2), 0, sigma=0.002)
    assert not near.has_converged
    _run(near, _sphere(0.5), 30)
    assert near.has_converged


def test_a_search_may_run_long_after_it_converged() -> None:
    found = _run(
        Cmaes([*_floats(2), Parameter("k", "int", 1, low=0, high=3)], 0), _sphere(0.5), 400
    )
    assert np.allclose(_vector(found)[:2], 0.5, atol=1e-6)


def test_a_mix_of_half_tied_values_is_searched_without_warnings() -> None:
    def fitness(genome: Genome) -> float:
        return float(genome.genes["b"] is True)

    _run(Cmaes([*_floats(3), Parameter("b", "bool", False)], 0), fitness, 20)


def test_fixed_genes_keep_their_place_among_the_others() -> None:
    parameters = [
        Parameter("last layer", "int", 7, low=7, high=7),
        Parameter("w", "float", 0.5),
        Parameter("base", "choice", "a", choices=("a",)),
    ]
    genome = Cmaes(parameters, 0).ask(0)
    assert genome is not None
    genes: dict[str, Gene] = dict(genome.genes)
    assert list(genes) == ["last layer", "w", "base"]
    assert (genes["last layer"], genes["base"]) == (7, "a")


def test_a_wide_integer_between_fractional_bounds_stays_within_them() -> None:
    wide = Parameter("k", "int", 1, low=0.4, high=1000.4)
    optimizer = Cmaes([wide, Parameter("w", "float", 0.5)], 0)
    for generation in range(20):
        asked = _generation(optimizer, 100 * generation)
        assert all(1 <= float(genome.genes["k"]) <= 1000 for genome in asked.values())
        for number, genome in asked.items():
            optimizer.tell(number, Evaluation("done", value=-float(genome.genes["k"])))
    found = optimizer.recommend()
    assert found is not None and found.genes["k"] == 1
