"""What every optimizer in ``evomerge/optimizers`` promises, whichever it is."""

from __future__ import annotations

import inspect
import itertools
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from evomerge.optimizers import Optimizer
from evomerge.plugins import registry
from evomerge.types import Aim, Evaluation, Genome, Parameter

ONE = Aim(("near",))
AIM = Aim(("near", "cheap"), several=True, floors=True)
FAILED = Evaluation("failed", error="it does not load")
MOST_ASKED_AT_ONCE = 200


@dataclass(frozen=True)
class Variant:
    """An optimizer with options; ``learns`` unless its later candidates ignore earlier results.

    ``several`` is for a search that names two objectives.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learns: bool = True
    several: bool = False

    def __str__(self) -> str:
        several = ["several"] if self.several else []
        return "-".join([self.name, *(str(value) for value in self.options.values()), *several])

    def __call__(self, parameters: Iterable[Parameter], seed: int = 7) -> Optimizer:
        kind = registry.find("optimizers", self.name, Optimizer)
        options = registry.validate_options(kind, self.options, "optimizer")
        optimizer = kind(tuple(parameters), seed, **options)
        optimizer.aim(AIM if self.several else ONE)
        return optimizer


# An optimizer that is not named here is tested with its default options.
SPECIAL = [
    Variant("random", learns=False),
    # what it learns is who the parents are; the genes say how they are crossed
    Variant("m2n2", learns=False),
    Variant("m2n2", {"warm_up": 5, "population_size": 4}, learns=False),
    Variant("m2n2", {"lag": 3}, learns=False),
    Variant("map_elites", learns=False),
    Variant("cmaes"),
    Variant("cmaes", {"population_size": 5}),
    Variant("optuna"),
    Variant("optuna", {"sampler": "CmaEsSampler"}),
    Variant("optuna", {"sampler": "NSGAIISampler", "sampler_options": {"population_size": 8}}),
    Variant("optuna", {"sampler": "QMCSampler"}, learns=False),
    Variant("optuna", {"sampler": "RandomSampler"}, learns=False),
    Variant("optuna", several=True),
    Variant("optuna", {"sampler": "NSGAIISampler"}, several=True),
    Variant("optuna", {"sampler": "NSGAIIISampler"}, several=True),
    Variant("pareto", several=True),
    Variant("pareto", {"first": 0.0, "sigma": 0.3}, several=True),
    Variant("como", {"kernels": 2}, several=True),
]
SPECIAL_NAMES = [variant.name for variant in SPECIAL]
OTHERS = [Variant(n) for n in registry.names("optimizers") if n not in SPECIAL_NAMES]


def _floats(count: int, initial: float = 0.9) -> tuple[Parameter, ...]:
    return tuple(Parameter(f"w[{i}]", "float", initial, low=-0.5, high=1.5) for i in range(count))


SPACES = {
    "floats": (
        *_floats(2),
        Parameter("at the low bound", "float", 0.0, low=0.0, high=0.3),
        Parameter("rate", "float", 1e-2, low=1e-4, high=1.0, scale="log"),
        Parameter("fixed", "float", 0.7, low=0.7, high=0.7),
    ),
    "mixed": (
        Parameter("density", "float", 1.0, low=0.1, high=1.0),
        Parameter("layers", "int", 4, low=2, high=9),
        Parameter("rank", "int", 8, low=1, high=64, scale="log"),
        Parameter("two", "int", 1, low=1, high=2),
        Parameter("many", "int", 500, low=0, high=10_000),
        Parameter("only", "int", 3, low=3, high=3),
        Parameter("tied", "bool", True),
        Parameter("operator", "choice", "ties", choices=("linear", "slerp", "ties")),
        Parameter("base", "choice", "a", choices=("a",)),
    ),
    "switches": tuple(Parameter(f"slot[{i}]", "bool", i < 2) for i in range(5)),
    "one float": _floats(1),
    "one int": (Parameter("depth", "int", 2, low=0, high=7),),
    "one choice": (Parameter("operator", "choice", "a", choices=("a", "b", "c")),),
    # From its middle: Optuna's CMA-ES redraws a point until all of it lies in the cube.
    "201 floats": _floats(201, initial=0.5),
}

every_optimizer = pytest.mark.parametrize("make", [*SPECIAL, *OTHERS], ids=str)
every_space = pytest.mark.parametrize("parameters", SPACES.values(), ids=list(SPACES))
small_space = pytest.mark.parametrize(
    "parameters", [SPACES["floats"], SPACES["mixed"]], ids=["floats", "mixed"]
)


def fitness(parameters: Iterable[Parameter], genome: Genome) -> float:
    """Minus a sphere around 0.3 of each range; a bool wants False, a choice its last option."""
    total = 0.0
    for parameter in parameters:
        gene = genome.genes[parameter.name]
        if parameter.kind in ("float", "int"):
            total -= (parameter.to_unit(float(gene)) - 0.3) ** 2
        else:
            total -= 0.1 * (gene not in (False, *parameter.choices[-1:]))
    return total


def score(parameters: Iterable[Parameter], genome: Genome) -> Evaluation:
    """The fitness is one of two objectives; of the other, genes near their low bounds have more.

    Whatever is far from the optimum misses a floor.
    """
    parameters = tuple(parameters)
    value = fitness(parameters, genome)
    numbers = [p for p in parameters if p.kind in ("float", "int")]
    cheap = 1e-3 * sum(1 - p.to_unit(float(genome.genes[p.name])) for p in numbers)
    return Evaluation(
        "done",
        value=value,
        objectives={"near": value, "cheap": cheap},
        shortfall=max(0.0, -value - 1.0),
    )


def ask(optimizer: Optimizer, number: int) -> Genome:
    """A genome, from an optimizer that has nothing in flight."""
    genome = optimizer.ask(number)
    assert genome is not None
    return genome


def history(optimizer: Optimizer, count: int) -> list[Genome]:
    """The genomes of candidates 0 .. count, one at a time; every fifth one fails."""
    genomes = []
    for number in range(count):
        genomes.append(ask(optimizer, number))
        failed = number % 5 == 3
        optimizer.tell(number, FAILED if failed else score(optimizer.parameters, genomes[-1]))
    return genomes


def assert_fits(parameters: tuple[Parameter, ...], genome: Genome) -> None:
    names = list(genome.genes)
    assert names[: len(parameters)] == [parameter.name for parameter in parameters]
    assert genome.parents or len(names) == len(parameters)
    for parameter in parameters:
        gene = genome.genes[parameter.name]
        if parameter.kind == "choice":
            assert type(gene) is str and gene in parameter.choices
        elif parameter.kind == "bool":
            assert type(gene) is bool
        else:
            assert type(gene) is (float if parameter.kind == "float" else int)
            assert parameter.low <= gene <= parameter.high
    assert json.loads(json.dumps(dict(genome.genes))) == genome.genes


@every_optimizer
@every_space
def test_every_genome_has_plain_values_within_bounds(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    optimizer = make(parameters)
    for genome in history(optimizer, 60 if len(parameters) < 100 else 8):
        assert_fits(parameters, genome)
    if (recommended := optimizer.recommend()) is not None:
        assert_fits(parameters, recommended)


@every_optimizer
@small_space
def test_the_same_calls_give_the_same_genomes(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    first, second = make(parameters), make(parameters)
    assert history(first, 50) == history(second, 50)
    assert first.recommend() == second.recommend()


@every_optimizer
@small_space
def test_another_seed_gives_other_genomes(make: Variant, parameters: tuple[Parameter, ...]) -> None:
    if "QMCSampler" in make.options.values():
        pytest.skip("an unscrambled sequence has no seed")
    assert history(make(parameters, seed=1), 20) != history(make(parameters, seed=2), 20)


@every_optimizer
def test_global_random_generators_are_left_alone(make: Variant) -> None:
    def state() -> tuple[object, ...]:
        numpy = np.random.get_state(legacy=False)["state"]
        return random.getstate(), numpy["key"].tolist(), numpy["pos"]

    before = state()
    history(make(SPACES["mixed"]), 20)
    assert state() == before


@every_optimizer
def test_numbers_may_have_gaps(make: Variant) -> None:
    optimizer = make(SPACES["mixed"])
    for number in range(3, 3 + 7 * 60, 7):
        optimizer.tell(number, score(optimizer.parameters, ask(optimizer, number)))


@every_optimizer
@small_space
def test_candidates_in_flight_may_be_reported_in_any_order(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    optimizer, rng, numbers = make(parameters), np.random.default_rng(0), itertools.count()
    flight: dict[int, Genome] = {}
    for _ in range(120):
        while len(flight) < 6:
            number = next(numbers)
            genome = optimizer.ask(number)
            if genome is None:
                assert flight, "None although nothing is in flight"
                break
            assert_fits(parameters, genome)
            flight[number] = genome
        number = int(rng.choice(list(flight)))
        optimizer.tell(number, score(parameters, flight.pop(number)))


@every_optimizer
@small_space
def test_a_generation_reported_in_another_order_has_the_same_successor(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    """Asked of every optimizer that at some point waits for all that are in flight."""
    successors = []
    for backwards in (False, True):
        optimizer = make(parameters)
        flight: dict[int, Genome] = {}
        for number in range(MOST_ASKED_AT_ONCE):
            if (genome := optimizer.ask(number)) is None:
                break
            flight[number] = genome
        else:
            pytest.skip("does not wait for a generation")
        for number in sorted(flight, reverse=backwards):
            failed = number % 4 == 1
            optimizer.tell(number, FAILED if failed else score(parameters, flight[number]))
        successors.append([ask(optimizer, n) for n in range(5000, 5003)])
    assert successors[0] == successors[1]


@every_optimizer
@small_space
def test_a_search_survives_when_every_candidate_fails(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    optimizer = make(parameters)
    for number in range(80):
        assert_fits(parameters, ask(optimizer, number))
        optimizer.tell(number, FAILED)
    for genome in history(optimizer, 60):
        assert_fits(parameters, genome)


@every_optimizer
@small_space
def test_a_search_survives_when_every_candidate_scores_the_same(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    optimizer = make(parameters)
    for number in range(80):
        assert_fits(parameters, ask(optimizer, number))
        optimizer.tell(number, Evaluation("done", value=0.0))


@every_optimizer
@pytest.mark.parametrize("space", ["floats", "mixed", "one float"])
def test_the_best_of_150_beats_the_initial_values(make: Variant, space: str) -> None:
    parameters = SPACES[space]
    initial = fitness(parameters, Genome({p.name: p.initial for p in parameters}))
    best = max(fitness(parameters, genome) for genome in history(make(parameters), 150))
    assert best > initial


@every_optimizer
def test_later_candidates_are_better_than_early_ones(make: Variant) -> None:
    if not make.learns:
        pytest.skip("does not learn")
    parameters = _floats(4)
    values = [fitness(parameters, genome) for genome in history(make(parameters), 200)]
    assert np.mean(values[-20:]) > np.mean(values[:20])


@every_optimizer
def test_options_are_keyword_only_and_have_defaults(make: Variant) -> None:
    known = inspect.signature(type(make(SPACES["floats"]))).parameters.values()
    options = [option for option in known if option.name not in ("parameters", "seed")]
    assert all(option.kind is inspect.Parameter.KEYWORD_ONLY for option in options)
    assert all(option.default is not inspect.Parameter.empty for option in options)


def busy_history(optimizer: Optimizer, workers: int, count: int) -> list[tuple[Genome, float]]:
    """Genomes and values in the order reported; all workers are busy, some four times as slow."""
    rng, numbers = np.random.default_rng(1), itertools.count()
    flight: dict[int, tuple[float, Genome]] = {}
    clock = 0.0
    reported: list[tuple[Genome, float]] = []
    while len(reported) < count:
        while len(flight) < workers:
            number = next(numbers)
            genome = optimizer.ask(number) or optimizer.ask_ahead(number)
            if genome is None:
                assert flight, "None although nothing is in flight"
                break
            assert_fits(optimizer.parameters, genome)
            flight[number] = (clock + 1 + 4 * float(rng.random() < 0.2) + rng.random(), genome)
        number = min(flight, key=lambda n: flight[n][0])
        clock, genome = flight.pop(number)
        value = fitness(optimizer.parameters, genome)
        optimizer.tell(number, FAILED if number % 11 == 3 else score(optimizer.parameters, genome))
        reported.append((genome, value))
    return reported


@every_optimizer
@small_space
def test_asking_ahead_gives_the_same_genomes_again(
    make: Variant, parameters: tuple[Parameter, ...]
) -> None:
    assert busy_history(make(parameters), 6, 90) == busy_history(make(parameters), 6, 90)


@every_optimizer
@small_space
def test_a_search_that_asks_ahead_learns(make: Variant, parameters: tuple[Parameter, ...]) -> None:
    """The best of the last third, of 300 on eight workers, is far better than the first."""
    if not make.learns:
        pytest.skip("learns nothing")
    values = [value for _, value in busy_history(make(parameters), 8, 300)]
    assert max(values[200:]) > values[0] / 3
