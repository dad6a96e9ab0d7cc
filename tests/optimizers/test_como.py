from __future__ import annotations

import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.como import Como
from evomerge.types import Aim, Evaluation, Genome, Parameter

PARAMETERS = (
    Parameter("x", "float", 0.5),
    Parameter("y", "float", 0.5),
    Parameter("depth", "int", 4, low=2, high=9),
    Parameter("operator", "choice", "a", choices=("a", "b", "c")),
)
AIM = Aim(("near 0", "near 1"), several=True, floors=True)


def scored(genome: Genome) -> Evaluation:
    """Both objectives want y = 0, depth 3 and b; one wants x = 0, the other x = 1."""
    genes = genome.genes
    other = genes["y"] ** 2 + (genes["depth"] - 3) ** 2 / 10 + (genes["operator"] != "b")
    gains = {"near 0": -(genes["x"] ** 2) - other, "near 1": -((genes["x"] - 1) ** 2) - other}
    return Evaluation("done", value=sum(gains.values()), objectives=gains)


def made(aim: Aim = AIM) -> Como:
    optimizer = Como(PARAMETERS, 3)
    optimizer.aim(aim)
    return optimizer


def history(optimizer: Como, count: int) -> list[Evaluation]:
    told = []
    for number in range(count):
        genome = optimizer.ask(number)
        assert genome is not None
        told.append(scored(genome))
        optimizer.tell(number, told[-1])
    return told


def test_a_front_of_mixed_genes_is_found_and_filled() -> None:
    late = [one.objectives for one in history(made(), 600)[-120:]]
    assert max(gains["near 0"] for gains in late) > -0.15
    assert max(gains["near 1"] for gains in late) > -0.15
    middle = [g for g in late if g["near 0"] > -0.35 and g["near 1"] > -0.35]
    assert middle  # x about 0.5, all else as it should be


def test_the_first_candidates_are_drawn_about_the_initial_values() -> None:
    optimizer = made()
    first = [optimizer.ask(number) for number in range(12)]
    assert all(g is not None and abs(g.genes["x"] - 0.5) < 0.6 for g in first)


@pytest.mark.parametrize("names", [("one",), ("one", "two", "three")])
def test_other_than_two_objectives_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="front of two objectives"):
        made(Aim(names))
