"""M2N2 against numbers worked out by hand, and against its formulas written out plainly."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError, SearchError
from evomerge.optimizers._niches import EPSILON, Archive, Competition, roulette
from evomerge.optimizers.m2n2 import M2n2
from evomerge.types import Evaluation, Genome, Parameter, TaskScores

SOURCES = ("math", "code", "chat")
CROSSED = (
    Parameter("source", "choice", "math", choices=SOURCES),
    *(Parameter(f"{kind}[all]", "float", 0.5) for kind in ("split", "ratio")),
)
# who solves which of four examples: nobody solves the last
SOLVED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]], float)


def scored(*examples: float) -> Evaluation:
    task = TaskScores(0.0, tuple(range(len(examples))), examples)
    return Evaluation("done", {"task": task}, value=0.0)


def ask(optimizer: M2n2, number: int) -> Genome:
    genome = optimizer.ask(number)
    assert genome is not None
    return genome


def seeded(*rows: Sequence[float], **options: Any) -> M2n2:
    """An optimizer whose seeds are told, with these scores."""
    optimizer = M2n2(CROSSED, 3, **options)
    for number, row in enumerate(rows):
        ask(optimizer, number)
        optimizer.tell(number, scored(*row))
    return optimizer


def test_an_example_is_shared_among_those_who_solve_it() -> None:
    found = Competition().fitness(SOLVED)
    assert found == pytest.approx([1 / 3 + 1, 1 / 3, 1 / 3 + 1], abs=1e-5)


@pytest.mark.parametrize("count", [5, 64, 333])
def test_fitness_is_summed_in_64_lanes_on_every_machine(count: int) -> None:
    scores = np.random.default_rng(0).random((7, count))
    gains = scores * (scores.max(0) / (scores.sum(0) + EPSILON))
    whole = count // 64 * 64
    for row, fitness in zip(gains, Competition().fitness(scores), strict=True):
        lanes = [0.0] * 64
        for j in range(count):
            lanes[j % 64 if j < whole else 0] += row[j]
        assert fitness == functools.reduce(operator.add, lanes)


def test_who_solves_as_many_is_as_fit_without_competition() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([rng.permutation([1.0] * 500 + [0.0] * 937) for _ in range(20)])
    assert len(set(Competition(0.0, "one").fitness(scores))) == 1
    assert len(set(Competition(0.0).fitness(scores))) == 1


def test_without_competition_fitness_is_the_sum_of_scores() -> None:
    assert Competition(0.0, "one").fitness(SOLVED) == pytest.approx([2, 1, 2], abs=1e-5)


def test_alpha_two_shares_by_the_square_of_the_demand() -> None:
    found = Competition(2.0).fitness(SOLVED)
    assert found == pytest.approx([1 / 9 + 1, 1 / 9, 1 / 9 + 1], abs=1e-5)


def test_the_capacity_of_an_example_is_its_best_score() -> None:
    scores = np.array([[0.5, 0.2], [0.25, 0.2]])
    expected = [0.5 * 0.5 / 0.75 + 0.2 * 0.2 / 0.4, 0.25 * 0.5 / 0.75 + 0.2 * 0.2 / 0.4]
    assert Competition().fitness(scores) == pytest.approx(expected, abs=1e-5)
    one = Competition(capacity="one").fitness(scores)
    assert one == pytest.approx([0.5 / 0.75 + 0.5, 0.25 / 0.75 + 0.5], abs=1e-5)


def test_the_worst_score_is_taken_off_first() -> None:
    scores = np.array([[0.5, 0.2], [0.25, 0.2]])
    found = Competition(subtract_worst=True).fitness(scores)
    assert found == pytest.approx([0.25, 0.0], abs=1e-5)


def test_one_attracts_another_by_what_the_other_does_not_solve() -> None:
    assert Competition().attraction(SOLVED, 1) == pytest.approx([1, 0, 1], abs=1e-5)
    assert Competition().attraction(SOLVED, 0) == pytest.approx([0, 0, 1], abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("subtract_worst", [False, True])
@pytest.mark.parametrize("count", [11, 64, 150])
def test_the_formulas_are_those_of_the_paper(
    alpha: float, subtract_worst: bool, count: int
) -> None:
    scores = np.random.default_rng(0).random((5, count))
    rules = Competition(alpha, subtract_worst=subtract_worst)
    s = [[float(x) for x in row] for row in scores]
    if subtract_worst:
        s = [[x - min(row[j] for row in s) for j, x in enumerate(one)] for one in s]
    examples = range(count)
    z = [sum(row[j] for row in s) for j in examples]
    c = [max(row[j] for row in s) for j in examples]
    f = [sum(row[j] * c[j] / (z[j] ** alpha + EPSILON) for j in examples) for row in s]
    assert rules.fitness(scores) == pytest.approx(f, rel=1e-12)
    for a in range(5):
        g = [sum(c[j] / (z[j] + EPSILON) * max(row[j] - s[a][j], 0) for j in examples) for row in s]
        assert rules.attraction(scores, a) == pytest.approx(g, rel=1e-12)


def test_the_worst_of_one_too_many_leaves() -> None:
    archive = Archive(3, Competition())
    for number, row in enumerate([*SOLVED, np.array([0.0, 0, 0, 1])]):
        archive.add(number, row)
    assert archive.numbers == [0, 2, 3]
    assert archive.scores.tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_of_two_equally_bad_ones_the_older_leaves() -> None:
    archive = Archive(2, Competition())
    for number, row in enumerate([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]):
        archive.add(number, np.array(row))
    assert archive.numbers == [1, 2]


def test_a_newcomer_that_is_worst_leaves_at_once() -> None:
    archive = Archive(2, Competition())
    for number, row in enumerate([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]):
        archive.add(number, np.array(row))
    assert archive.numbers == [0, 1]


def test_other_examples_than_before_are_refused() -> None:
    archive = Archive(2, Competition())
    archive.add(0, np.array([1.0, 0.0]))
    with pytest.raises(SearchError, match="candidate 1 was scored on 3 examples, those before"):
        archive.add(1, np.array([1.0, 0.0, 1.0]))


def test_a_roulette_is_as_likely_to_stop_as_weights_say() -> None:
    rng = np.random.default_rng(0)
    drawn = [roulette(np.array([1.0, 0.0, 3.0, 0.0]), rng) for _ in range(4000)]
    assert drawn.count(1) == drawn.count(3) == 0
    assert drawn.count(2) / 4000 == pytest.approx(0.75, abs=0.03)
    assert {roulette(np.zeros(3), rng) for _ in range(50)} == {0, 1, 2}
    assert {roulette(np.array([5e-324, 0.0]), rng) for _ in range(50)} == {0}


def test_the_first_candidates_are_the_sources_in_their_order() -> None:
    optimizer = M2n2(CROSSED, 0)
    seeds = [ask(optimizer, number) for number in (4, 5, 6)]
    assert [seed.genes["source"] for seed in seeds] == list(SOURCES)
    assert [seed.parents for seed in seeds] == [(), (), ()]
    assert optimizer.ask(7) is None
    for number in (4, 5, 6):
        optimizer.tell(number, scored(1.0))
    assert len(ask(optimizer, 7).parents) == 2


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
    with pytest.raises(ConfigError, match=r"optimizer\.lag: .* Set insert: asked"):
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
