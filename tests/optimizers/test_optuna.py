from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers import _optuna_samplers
from evomerge.optimizers.optuna import Optuna
from evomerge.types import Evaluation, Genome, Parameter

FLOATS = [Parameter("x", "float", 0.9), Parameter("y", "float", 0.1)]
MIXED = [
    *FLOATS,
    Parameter("k", "int", 2, low=1, high=8, scale="log"),
    Parameter("b", "bool", True),
    Parameter("c", "choice", "u", choices=("u", "v", "w")),
]
INITIAL = {"x": 0.9, "y": 0.1, "k": 2, "b": True, "c": "u"}


def _sphere(genome: Genome) -> float:
    return -sum((float(genome.genes[name]) - 0.5) ** 2 for name in ("x", "y"))


def _run(
    optimizer: Optuna, count: int, fitness: Callable[[Genome], float] = _sphere
) -> list[Genome]:
    genomes = []
    for number in range(count):
        genomes.append(optimizer.ask(number))
        optimizer.tell(number, Evaluation("done", value=fitness(genomes[-1])))
    return genomes


@pytest.mark.parametrize(
    "sampler",
    [
        "TPESampler",
        "CmaEsSampler",
        "GPSampler",
        "NSGAIISampler",
        "NSGAIIISampler",
        "QMCSampler",
        "RandomSampler",
    ],
)
def test_every_sampler_starts_at_the_initial_values_and_goes_on(sampler: str) -> None:
    options = {"n_startup_trials": 4} if sampler == "GPSampler" else {}
    genomes = _run(Optuna(MIXED, 1, sampler=sampler, sampler_options=options), 6)
    assert genomes[0].genes == INITIAL
    assert len({str(genome) for genome in genomes}) == 6


def test_cma_es_starts_its_mean_at_the_initial_values() -> None:
    optimizer = Optuna(
        FLOATS, 0, sampler="CmaEsSampler", sampler_options={"popsize": 60, "sigma0": 0.02}
    )
    genomes = _run(optimizer, 50)
    values = np.array([[genome.genes["x"], genome.genes["y"]] for genome in genomes[1:]])
    assert np.allclose(values.mean(axis=0), [0.9, 0.1], atol=0.02)


def test_cma_es_learns() -> None:
    genomes = _run(Optuna(FLOATS, 0, sampler="CmaEsSampler"), 200)
    assert max(map(_sphere, genomes)) > -1e-4


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sampler": "TPESample"}, r"has no 'TPESample'\. Did you mean 'TPESampler'\?"),
        ({"sampler": "nsgaii"}, "has no 'nsgaii'"),
        ({"sampler": "GridSampler"}, "GridSampler stops when its grid is used up"),
        ({"sampler": "BaseSampler"}, "is abstract"),
        (
            {"sampler_options": {"n_startup_trial": 4}},
            r"n_startup_trial: TPESampler has no such option\. Did you mean 'n_startup_trials'",
        ),
        ({"sampler_options": {"seed": 4}}, "set the seed of the search instead"),
        (
            {"sampler": "NSGAIISampler", "sampler_options": {"population_size": 1}},
            r"options\.population_size: NSGAIISampler cannot use 1: .*greater than or equal to 2",
        ),
        (
            {"sampler": "NSGAIISampler", "sampler_options": {"population_size": "many"}},
            "population_size: NSGAIISampler cannot use 'many'",
        ),
        ({"sampler_options": {"n_ei_candidates": 0}}, "n_ei_candidates: TPESampler cannot use 0"),
        ({"sampler_options": {"gamma": 0.1}}, r"options\.gamma: TPESampler cannot use 0\.1"),
        (
            {"sampler_options": {"n_startup_trials": 10**9}},
            "n_startup_trials: expected at most 100000, got 1000000000",
        ),
        (
            {"sampler": "GPSampler", "sampler_options": {"n_startup_trials": "ten"}},
            "n_startup_trials: GPSampler cannot use 'ten'",
        ),
        (
            {
                "sampler": "NSGAIIISampler",
                "sampler_options": {"population_size": 900, "dividing_parameter": 0},
            },
            "options.dividing_parameter: NSGAIIISampler cannot use 0",
        ),
        (
            {"sampler": "CmaEsSampler", "sampler_options": {"sigma0": "wide"}},
            "sigma0: CmaEsSampler cannot use 'wide'",
        ),
        (
            {"sampler": "QMCSampler", "sampler_options": {"independent_sampler": "Random"}},
            "independent_sampler: QMCSampler cannot use 'Random'",
        ),
    ],
)
def test_samplers_and_options_that_do_not_exist_are_refused(
    options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Optuna(MIXED, 0, **options)


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Optuna(MIXED, 0, sampler_options={"gama": 1, "n_ei": 2, "seed": 3})
    assert len(caught.value.problems) == 3


def test_all_options_with_which_a_sampler_fails_are_reported_and_none_that_needs_another() -> None:
    options = {"group": True, "multivariate": True, "n_ei_candidates": 0, "prior_weight": "much"}
    with pytest.raises(ConfigError) as caught:
        Optuna(MIXED, 0, sampler_options=options)
    assert [problem.path[-1] for problem in caught.value.details] == [
        "n_ei_candidates",
        "prior_weight",
    ]


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("NSGAIIISampler", {"population_size": 900, "dividing_parameter": 0}),
        ("TPESampler", {"n_startup_trials": 900, "n_ei_candidates": 0}),
        ("NSGAIISampler", {"population_size": 900, "crossover_prob": "often"}),
        ("CmaEsSampler", {"popsize": 900, "sigma0": "wide"}),
    ],
)
def test_what_is_refused_does_not_depend_on_time(
    monkeypatch: pytest.MonkeyPatch, sampler: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(_optuna_samplers, "_SECONDS", -1.0)
    with pytest.raises(ConfigError, match=f"{list(options)[1]}: {sampler} cannot use"):
        Optuna(FLOATS, 0, sampler=sampler, sampler_options=options)


def test_memory_that_runs_out_is_no_wrong_option() -> None:
    def too_large(count: int) -> int:
        return len([0] * (1 << 60))

    with pytest.raises(MemoryError):
        Optuna(FLOATS, 0, sampler_options={"gamma": too_large})


def test_failed_candidates_are_failed_trials_and_the_highest_value_wins() -> None:
    optimizer = Optuna(FLOATS, 0)
    for number, value in enumerate((None, 0.5, float("nan"), 0.7)):
        optimizer.ask(number)
        status = "failed" if value is None else "done"
        optimizer.tell(number, Evaluation(status, value=value))  # type: ignore[arg-type]
    states = [trial.state.name for trial in optimizer._study.trials]
    assert states == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert optimizer._study.best_value == 0.7


def test_nothing_is_logged_and_the_verbosity_is_restored(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    _run(Optuna(MIXED, 0, sampler="CmaEsSampler"), 20)
    assert optuna.logging.get_verbosity() == before == optuna.logging.INFO
    assert capfd.readouterr() == ("", "")


def test_the_libraries_are_loaded_only_by_their_own_optimizer() -> None:
    loaded = "print(sorted({'optuna', 'cmaes', 'torch', 'scipy'} & set(sys.modules)))\n"
    script = (
        "import sys, evomerge.optimizers.random, evomerge.optimizers.cmaes\n"
        "from evomerge.types import Parameter\n"
        "from evomerge.optimizers.optuna import Optuna\n"
        f"{loaded}"
        "Optuna([Parameter('x', 'float', 0.5)], 0).ask(0)\n"
        f"{loaded}"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split("\n")[:2] == ["[]", "['optuna']"]
