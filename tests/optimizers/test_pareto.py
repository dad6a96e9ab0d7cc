from __future__ import annotations

from collections.abc import Callable

import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.pareto import Pareto
from evomerge.types import Aim, Evaluation, Genome, Parameter

AIM = Aim(("left", "right"), several=True)
PLACE = (Parameter("place", "float", 0.5),)


def made(aim: Aim = AIM, **options: float) -> Pareto:
    optimizer = Pareto(PLACE, 5, **options)  # type: ignore[arg-type]
    optimizer.aim(aim)
    return optimizer


def scored(genome: Genome) -> Evaluation:
    """Left wants 0 and right wants 1, in units that are a thousand times larger."""
    place = float(genome.genes["place"])
    left, right = 1 - place**2, 1000 * (1 - (1 - place) ** 2)
    return Evaluation("done", value=left + right / 1000, objectives={"left": left, "right": right})


def places(
    optimizer: Pareto, count: int, score: Callable[[Genome], Evaluation] = scored
) -> list[float]:
    """Where the candidates of a budget of so many are, one at a time."""
    found = []
    for number in range(count):
        optimizer.spent = number / count
        genome = optimizer.ask(number)
        assert genome is not None
        optimizer.tell(number, score(genome))
        found.append(float(genome.genes["place"]))
    return found


def test_the_first_part_of_the_budget_is_for_the_fitness_alone() -> None:
    found = places(made(first=0.4), 150)
    assert all(abs(place - 0.5) < 0.25 for place in found[24:60])
    assert min(found[72:]) < 0.25 < 0.75 < max(found[72:])


def test_then_every_objective_has_its_corner_and_the_fitness_goes_on() -> None:
    late = places(made(first=0.4), 300)[-36:]  # one turn of each
    turns = [sorted(late[start : start + 12])[6] for start in (0, 12, 24)]
    assert sorted(turns) == pytest.approx([0.3, 0.5, 0.7], abs=0.05)


def test_an_objective_counts_in_units_of_its_range() -> None:
    """Else the larger one, of which a corner is to have 0.3, would have 0.998."""
    assert min(places(made(first=0.4), 300)[-36:]) < 0.35


def test_corners_wait_for_the_last_results_of_the_first_part() -> None:
    optimizer, flight = made(first=0.0), {}
    for number in range(12):
        genome = optimizer.ask(number)
        assert genome is not None
        flight[number] = genome
    assert optimizer.ask(12) is None and optimizer.ask_ahead(12) is None
    for number, genome in flight.items():
        optimizer.tell(number, scored(genome))
    assert optimizer.ask(12) is not None


def test_a_turn_does_not_wait_for_results_of_other_searches() -> None:
    """Workers go on with the next corner while the last candidates of this one are slow."""
    optimizer = made(first=0.0)
    places(optimizer, 12)
    assert all(optimizer.ask(number) is not None for number in range(12, 12 + 3 * 12))
    assert optimizer.ask(48) is None


def test_of_more_than_four_objectives_the_widest_have_corners() -> None:
    names = tuple("abcdef")

    def score(genome: Genome) -> Evaluation:
        place = float(genome.genes["place"])
        gains = {name: 1.0 + place * index for index, name in enumerate(names)}
        return Evaluation("done", value=place, objectives=gains)

    optimizer = made(Aim(names), first=0.0)
    places(optimizer, 60, score)
    weights = [search.weights for search in optimizer._searches[1:]]
    own = [max("bcdef", key=lambda name: of[name] * names.index(name)) for of in weights]
    assert own == [*"cdef"]


@pytest.mark.parametrize(
    ("aim", "options", "says"),
    [
        (Aim(("only",)), {}, "two objectives or more"),
        (AIM, {"corners": 0.5}, "no more than the others"),
    ],
)
def test_what_has_no_corners_is_refused(aim: Aim, options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(aim, **options)
