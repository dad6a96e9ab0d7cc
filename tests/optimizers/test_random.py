from __future__ import annotations

import math

import numpy as np

from evomerge.optimizers.random import Random
from evomerge.types import Evaluation, Gene, Parameter


def _draws(parameter: Parameter, count: int = 2000) -> list[Gene]:
    optimizer = Random([parameter], 1)
    return [optimizer.ask(number).genes[parameter.name] for number in range(count)]


def test_a_candidate_depends_on_the_seed_and_its_number_alone() -> None:
    parameters = [Parameter("w", "float", 0.5), Parameter("k", "int", 1, low=0, high=9)]
    busy = Random(parameters, 3)
    for number in range(5):
        busy.ask(number)
        busy.tell(number, Evaluation("done", value=1.0))
    assert busy.ask(17) == Random(parameters, 3).ask(17)


def test_a_float_is_the_first_draw_of_its_own_generator() -> None:
    genome = Random([Parameter("w", "float", 0.0, low=-1.0, high=3.0)], 5).ask(8)
    assert genome.genes["w"] == -1.0 + 4.0 * np.random.default_rng([5, 8]).random()


def test_a_log_float_is_uniform_in_its_logarithm() -> None:
    logs = [
        math.log10(float(v))
        for v in _draws(Parameter("r", "float", 0.1, low=1e-4, high=1.0, scale="log"))
    ]
    shares = np.histogram(logs, bins=4, range=(-4, 0))[0] / len(logs)
    assert np.allclose(shares, 0.25, atol=0.05)


def test_an_int_draws_every_value_equally_often() -> None:
    drawn = _draws(Parameter("k", "int", 1, low=1, high=4))
    shares = [drawn.count(k) / len(drawn) for k in (1, 2, 3, 4)]
    assert np.allclose(shares, 0.25, atol=0.05)


def test_a_log_int_draws_small_values_more_often() -> None:
    drawn = _draws(Parameter("rank", "int", 8, low=1, high=64, scale="log"))
    assert set(drawn) <= set(range(1, 65))
    expected = math.log(3) / math.log(129)  # [0.5, 1.5] of [0.5, 64.5]
    assert abs(drawn.count(1) / len(drawn) - expected) < 0.04


def test_a_space_without_parameters_has_one_empty_genome() -> None:
    assert Random([], 0).ask(0).genes == {}
