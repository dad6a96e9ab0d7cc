"""Children of coefficient matrices are those of the weights that the matrices stand for."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.spaces._coefficients import (
    CoefficientCache,
    Coefficients,
    Floats,
    Positions,
    cross,
    inner_products,
)
from evomerge.spaces._crossing import MixedSpan, lerp_weights, slerp_weights
from evomerge.types import Genome

N, K = 200, 3
RNG = np.random.default_rng(0)
SOURCES_KN = RNG.normal(size=(K, N))


def grams(positions: Positions) -> Floats:
    parts = [SOURCES_KN[:, :position] for position in positions]
    return np.stack([part @ part.T for part in parts])


def seed(source: int) -> Coefficients:
    return Coefficients(np.array([0, N]), np.eye(K)[source : source + 1])


def weights(matrix: Coefficients) -> Floats:
    """(N,) the model, element by element."""
    rows = np.repeat(matrix.rows, np.diff(matrix.bounds), axis=0)
    found: Floats = np.einsum("nk,kn->n", rows, SOURCES_KN)
    return found


def direct_arc(x: Floats, y: Floats, t: float) -> Floats:
    """Shoemake's formula on vectors."""
    cosine = x @ y / np.sqrt((x @ x) * (y @ y))
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) <= 1e-6:
        return (1 - t) * x + t * y
    found: Floats = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    return found


def test_a_child_is_cut_where_its_parents_are_and_where_it_was_split() -> None:
    first = Coefficients(np.array([0, 10, N]), np.array([[1.0, 0, 0], [0, 1, 0]]))
    second = Coefficients(np.array([0, 50, N]), np.array([[0, 0, 1.0], [0, 1, 0]]))
    child = cross(first, second, [MixedSpan(0, 30, (0.75, 0.25)), MixedSpan(30, N, (0.25, 0.75))])
    assert child.bounds.tolist() == [0, 10, 30, 50, N]
    assert child.rows.tolist() == [[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0.25, 0.75], [0, 1, 0]]


def test_neighbours_that_agree_become_one_segment() -> None:
    child = cross(seed(0), seed(1), [MixedSpan(0, 70, (0.5, 0.5)), MixedSpan(70, N, (0.5, 0.5))])
    assert child.bounds.tolist() == [0, N]
    assert child.rows.tolist() == [[0.5, 0.5, 0.0]]


def test_rows_that_drift_by_less_than_is_told_apart_do_not_all_become_one() -> None:
    rows = np.zeros((30, K))
    rows[:, 0] = 6e-13 * np.arange(30)
    drifting = Coefficients(np.append(np.arange(30), N), rows)
    child = cross(drifting, seed(1), [MixedSpan(0, N, (1.0, 0.0))])
    assert child.bounds.tolist() == [*range(0, 30, 2), N]
    assert child.rows.tolist() == rows[::2].tolist()


@pytest.mark.parametrize("size", [N - 1, N + 1])
def test_individuals_of_two_sizes_are_not_crossed(size: int) -> None:
    other = Coefficients(np.array([0, size]), np.eye(K)[:1])
    with pytest.raises(AssertionError):
        cross(seed(0), other, [MixedSpan(0, N, (0.5, 0.5))])
    with pytest.raises(AssertionError):
        inner_products(seed(0), other, 0, N, grams)
    with pytest.raises(AssertionError):
        cross(seed(0), seed(1), [MixedSpan(0, size, (0.5, 0.5))])


@pytest.mark.parametrize("t", [0.1, 0.3, 0.7, 0.9])
def test_the_child_of_a_parent_and_its_equal_is_that_parent_to_the_last_bit(t: float) -> None:
    rng = np.random.default_rng(2)
    rows = rng.random((50, K))
    assert ((1 - t) * rows + t * rows != rows).any()  # which is why it is not computed
    parent = Coefficients(np.arange(51) * (N // 50), rows)
    equal = Coefficients(parent.bounds.copy(), parent.rows.copy())
    child = cross(
        parent, equal, [MixedSpan(0, 70, lerp_weights(t)), MixedSpan(70, N, lerp_weights(1 - t))]
    )
    np.testing.assert_array_equal(child.bounds, parent.bounds)
    np.testing.assert_array_equal(child.rows, parent.rows)


@pytest.mark.parametrize("cut", [0, N])
def test_a_split_at_an_end_leaves_one_part(cut: int) -> None:
    child = cross(
        seed(0),
        seed(1),
        [MixedSpan(0, cut, lerp_weights(0.25)), MixedSpan(cut, N, lerp_weights(0.75))],
    )
    assert child.bounds.tolist() == [0, N]
    assert child.rows.tolist() == [[0.75, 0.25, 0] if cut else [0.25, 0.75, 0]]


@pytest.mark.parametrize("spherical", [False, True])
def test_three_hundred_generations_are_those_of_the_weights_themselves(spherical: bool) -> None:
    rng = np.random.default_rng(1)
    matrices = [seed(k) for k in range(K)]
    models = [weights(matrix) for matrix in matrices]
    for _ in range(300):
        one, two = (int(i) for i in rng.integers(max(0, len(models) - 20), len(models), 2))
        cut, ratio = int(rng.integers(1, N)), float(rng.random())
        x, y = matrices[one], matrices[two]
        sides = [(0, cut, ratio), (cut, N, 1 - ratio)]
        matrices.append(
            cross(
                x,
                y,
                [
                    MixedSpan(
                        a,
                        b,
                        slerp_weights(inner_products(x, y, a, b, grams), t)
                        if spherical
                        else lerp_weights(t),
                    )
                    for a, b, t in sides
                ],
            )
        )
        u, v = models[one], models[two]
        parts = [
            direct_arc(u[a:b], v[a:b], t) if spherical else (1 - t) * u[a:b] + t * v[a:b]
            for a, b, t in sides
        ]
        models.append(np.concatenate(parts))
        np.testing.assert_allclose(weights(matrices[-1]), models[-1], rtol=1e-7, atol=1e-9)
    assert len(matrices[-1].bounds) > 20


def test_equal_genomes_are_told_apart_and_any_one_is_read_again() -> None:
    genes = {"bounds": [0, 40, N], "rows": [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]}
    known, equal = Genome(genes), Genome(genes)
    matrices, kept = CoefficientCache(), seed(2)
    matrices.keep(known, kept)
    for number in range(3000):
        assert matrices.of(known) is kept
        assert matrices.of(equal).rows.tolist() == genes["rows"]
        assert matrices.of(equal).bounds.tolist() == genes["bounds"]
        matrices.keep(Genome({}, (number,)), seed(0))
    for number in range(3000):
        matrices.keep(Genome({}, (number,)), seed(0))
    assert matrices.of(known).rows.tolist() == genes["rows"]  # forgotten, and read


def test_the_arc_between_equal_models_is_the_line() -> None:
    assert slerp_weights(inner_products(seed(1), seed(1), 0, N, grams), 0.3) == (0.7, 0.3)


def test_the_arc_over_no_elements_is_the_line() -> None:
    assert slerp_weights(inner_products(seed(0), seed(1), 40, 40, grams), 0.25) == (0.75, 0.25)


def test_the_arc_from_a_model_of_zeros_is_the_line() -> None:
    nothing = Coefficients(np.array([0, N]), np.zeros((1, K)))
    assert slerp_weights(inner_products(nothing, seed(1), 0, N, grams), 0.25) == (0.75, 0.25)


def test_the_middle_of_the_arc_between_orthogonal_models_is_longer_than_the_line() -> None:
    def identity(positions: Positions) -> Floats:
        return np.stack([position * np.eye(K) for position in positions])

    found = slerp_weights(inner_products(seed(0), seed(1), 0, N, identity), 0.5)
    assert found == pytest.approx((np.sqrt(0.5), np.sqrt(0.5)))
