"""M2N2: which candidates are asked, which parents they have, and when results enter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.m2n2 import M2n2
from evomerge.types import Evaluation, Genome, Parameter, TaskScores

SOURCES = ("math", "code", "chat")
CROSSED = (
    Parameter("source", "choice", "math", choices=SOURCES),
    *(Parameter(f"{kind}[all]", "float", 0.5) for kind in ("split", "ratio")),
)


def scored(*examples: float) -> Evaluation:
    task = TaskScores(0.0, tuple(range(len(examples))), examples)
    return Evaluation("done", {"task": task}, value=0.0)


def ask(optimizer: M2n2, number: int) -> Genome:
    genome = optimizer.ask(number)
    assert genome is not None
    return genome


def seeded(*rows: Sequence[float], **options: Any) -> M2n2:
    """An optimizer whose seeds have these scores."""
    optimizer = M2n2(CROSSED, 3, **options)
    for number, row in enumerate(rows):
        ask(optimizer, number)
        optimizer.tell(number, scored(*row))
    return optimizer


def test_the_first_candidates_are_the_sources_in_their_order() -> None:
    optimizer = M2n2(CROSSED, 0)
    seeds = [ask(optimizer, number) for number in (4, 5, 6)]
    assert [seed.genes["source"] for seed in seeds] == list(SOURCES)
    assert [seed.parents for seed in seeds] == [(), (), ()]
    assert optimizer.ask(7) is None
    for number in (4, 5, 6):
        optimizer.tell(number, scored(1.0))
    assert len(ask(optimizer, 7).parents) == 2


def test_seeds_may_be_given_in_place_of_the_sources() -> None:
    optimizer = M2n2(CROSSED, 0, seeds="starts")
    assert optimizer.takes_seeds and not M2n2(CROSSED, 0).takes_seeds
    given = [Genome({"bounds": [0, 9], "rows": [[weight, 1.0, 0.3]]}) for weight in (0.0, 0.3)]
    optimizer.begin_with(given)
    assert [ask(optimizer, number) for number in (4, 5)] == given
    assert optimizer.ask(6) is None
    for number in (4, 5):
        optimizer.tell(number, scored(1.0))
    assert set(ask(optimizer, 6).parents) <= {4, 5}


def test_mutations_of_other_seeds_than_sources_are_refused() -> None:
    message = r"^seeds: the steps .* begin at sources\. Set seeds: sources, or mutation: 0\.$"
    with pytest.raises(ConfigError, match=message):
        M2n2(CROSSED, 0, seeds="starts", mutation=0.01)


def test_parents_complement_each_other() -> None:
    """Only math solves the first example, only code the second; chat is of no use."""
    optimizer = seeded([1, 0], [0, 1], [0, 0])
    for number in range(3, 40):
        child = ask(optimizer, number)
        assert sorted(child.parents) == [0, 1]
        assert child.genes["chosen_by"] == "attraction"
        assert child.genes["fitness[0]"] == child.genes["attraction"] == pytest.approx(1, abs=1e-5)


def test_where_nobody_attracts_fitness_decides() -> None:
    optimizer = seeded([1, 1], [0, 0], [0, 0])
    child = ask(optimizer, 3)
    assert child.parents == (0, 0)
    assert child.genes["chosen_by"] == "fitness"


def test_without_attraction_both_parents_are_drawn_by_fitness() -> None:
    optimizer = seeded([1, 1], [1, 0], [0, 0], attraction=False)
    children = [ask(optimizer, number) for number in range(3, 60)]
    assert {child.genes["chosen_by"] for child in children} == {"fitness"}
    assert (1, 1) in {child.parents for child in children}


def test_without_competition_common_skills_count_fully() -> None:
    rows = [1, 1, 0], [1, 1, 0], [0, 0, 1]
    assert ask(seeded(*rows), 3).genes["fitness[0]"] == pytest.approx(1, abs=1e-5)
    lone = {
        child.parents[0]: child.genes["fitness[0]"]
        for number in range(3, 40)
        if (child := ask(seeded(*rows, competition=False), number))
    }
    assert lone[0] == pytest.approx(2, abs=1e-5) and lone[2] == pytest.approx(1, abs=1e-5)


def test_without_a_split_point_the_whole_child_has_one_ratio() -> None:
    child = ask(seeded([1], [1], [1], split_point=False), 3)
    assert child.genes["split[all]"] == 1.0
    assert 0 < child.genes["ratio[all]"] < 1


def test_without_crossover_a_child_is_a_copy_of_one_parent() -> None:
    child = ask(seeded([0], [1], [0], crossover=False), 3)
    assert child.parents == (1,)
    assert (child.genes["split[all]"], child.genes["ratio[all]"]) == (1.0, 0.0)


def test_warm_up_children_are_of_two_different_seeds() -> None:
    optimizer = seeded([1], [0], [0], warm_up=20)
    for number in range(3, 23):
        child = ask(optimizer, number)
        assert child.genes["chosen_by"] == "warm_up" and len(set(child.parents)) == 2
        assert set(child.parents) <= {0, 1, 2}
        optimizer.tell(number, scored(1.0))
    assert ask(optimizer, 23).genes["chosen_by"] == "fitness"


def test_a_failed_candidate_never_enters_the_archive() -> None:
    optimizer = seeded([1, 0], [0, 1], [0, 0])
    ask(optimizer, 3)
    optimizer.tell(3, Evaluation("failed", error="no"))
    assert optimizer.archive.numbers == [0, 1, 2]


def test_seeds_that_all_failed_are_asked_again() -> None:
    optimizer = M2n2(CROSSED, 0)
    for number in range(3):
        ask(optimizer, number)
        optimizer.tell(number, Evaluation("failed", error="no"))
    assert [ask(optimizer, number).genes["source"] for number in (3, 4)] == ["math", "code"]


def in_flight(order: Sequence[int], **options: Any) -> tuple[list[Genome], list[int]]:
    """Forty children, four evaluated at a time; which of the four is done next repeats."""
    optimizer = seeded([1, 0, 0], [0, 1, 0], [0, 0, 1], population_size=4, **options)
    flight: list[int] = []
    genomes: dict[int, Genome] = {}
    number = 3
    while number < 43:
        while len(flight) < 4 and (genome := optimizer.ask(number)) is not None:
            genomes[number] = genome
            flight.append(number)
            number += 1
        place = order[number % len(order)] % len(flight)
        done = flight.pop(place)
        optimizer.tell(done, scored(*np.random.default_rng(done).integers(0, 2, 3).tolist()))
    for done in flight:
        optimizer.tell(done, scored(*np.random.default_rng(done).integers(0, 2, 3).tolist()))
    optimizer.ask(number)  # with a lag, now the last ones enter
    return list(genomes.values()), optimizer.archive.numbers


def test_with_a_lag_it_does_not_matter_who_is_done_first() -> None:
    assert in_flight([0], lag=4) == in_flight([3, 1, 2], lag=4)
    assert in_flight([0], lag=4) != in_flight([0], lag=1)


def test_results_wait_for_those_of_earlier_numbers() -> None:
    optimizer = seeded([1, 0], [0, 1], [0, 0])
    for number in (3, 4):
        ask(optimizer, number)
    optimizer.tell(4, scored(1, 1))
    assert optimizer.archive.numbers == [0, 1, 2]
    optimizer.tell(3, scored(1, 1))
    assert optimizer.archive.numbers == [0, 1, 2, 3, 4]


def test_results_may_enter_as_they_are_finished() -> None:
    optimizer = seeded([1, 0], [0, 1], [0, 0], insert="finished")
    for number in (3, 4):
        ask(optimizer, number)
    optimizer.tell(4, scored(1, 1))
    assert optimizer.archive.numbers == [0, 1, 2, 4]


def test_a_lag_without_an_order_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^lag: .* Set insert: asked"):
        M2n2(CROSSED, 0, insert="finished", lag=2)


def test_examples_of_all_tasks_count_in_the_order_of_their_names() -> None:
    optimizer = M2n2(CROSSED, 0)
    ask(optimizer, 0)
    tasks = {
        "b": TaskScores(0.5, (0, 1), (1.0, float("nan"))),
        "a": TaskScores(0.5, (7,), (-0.5,)),
    }
    optimizer.tell(0, Evaluation("done", tasks, value=0.5))
    assert optimizer.archive.scores.tolist() == [[0.0, 1.0, 0.0]]


def test_a_child_depends_on_seed_number_and_archive_alone() -> None:
    busy = seeded([1, 0], [0, 1], [0, 0])
    for number in range(3, 9):
        ask(busy, number)
    assert ask(busy, 17) == ask(seeded([1, 0], [0, 1], [0, 0]), 17)


def test_every_child_is_asked_with_its_own_noise_and_no_seed_is() -> None:
    optimizer = seeded([1, 0], [0, 1], [0, 0], mutation=0.01)
    children = [ask(optimizer, number) for number in range(3, 9)]
    assert [child.genes["noise"] for child in children] == [3, 4, 5, 6, 7, 8]
    assert {child.genes["sigma"] for child in children} == {0.01}
    assert "sigma" not in ask(M2n2(CROSSED, 3, mutation=0.01), 0).genes
    assert "sigma" not in ask(seeded([1], [1], [1]), 3).genes
