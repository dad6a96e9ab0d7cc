"""Compiled loops give the bits of the torch operations that other devices use."""

import itertools

import pytest
import torch

from evomerge.kernels.bounds import between
from evomerge.kernels.choices import Consensus, Negative
from evomerge.kernels.consensus import _consensus_sum_by_torch, consensus_sum, weighted_sum
from evomerge.kernels.passes import added, read, rounded
from evomerge.kernels.random import uniforms
from evomerge.kernels.row_ranks import ranks

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    kind = torch.int32 if one.dtype == torch.float32 else torch.int16
    return torch.equal(one.view(kind), other.view(kind))


def odd_values(count: int) -> torch.Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    values[::5], values[1::7] = 0.0, -0.0
    values[2::11] *= 1e-40  # not normal
    values[3::13] *= 1e30
    return values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("less_base", [False, True])
def test_reading_widens_and_subtracts(dtype: torch.dtype, less_base: bool) -> None:
    values, base = odd_values(1003).clamp(-6e4, 6e4).to(dtype), odd_values(1003).flip(0)
    out = torch.empty(1003)
    assert read(values, base if less_base else None, out)
    assert same_bits(out, values.float() - base if less_base else values.float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_reading_notices_what_is_not_finite(dtype: torch.dtype, bad: float) -> None:
    values = torch.ones(1003).to(dtype)
    values[777] = bad
    assert not read(values, None, torch.empty(1003))
    assert not read(values, torch.ones(1003), torch.empty(1003))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_is_that_of_torch(dtype: torch.dtype) -> None:
    values = odd_values(100_003).clamp(-6e4, 6e4)
    result, finite = rounded(values, dtype)
    assert finite
    assert same_bits(result, values.to(dtype))


def test_rounding_to_bfloat16_takes_the_even_of_two_neighbours() -> None:
    halfway = torch.arange(1 << 15, dtype=torch.int32) * (1 << 15) + (1 << 29)
    values = halfway.view(torch.float32)
    assert same_bits(rounded(values, torch.bfloat16)[0], values.bfloat16())


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 3.4e38])
def test_rounding_notices_what_bfloat16_cannot_hold(bad: float) -> None:
    values = torch.ones(1003)
    values[777] = bad
    assert not rounded(values, torch.bfloat16)[1]


def test_rounding_notices_the_last_nan() -> None:
    values = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert not rounded(values, torch.bfloat16)[1]


def test_adding_nothing_keeps_a_negative_zero() -> None:
    base = torch.tensor([-0.0, -0.0, 0.0, 1.0])
    result = added(base, torch.tensor([0.0, -0.0, -0.0, 2.0]))
    assert same_bits(result, torch.tensor([-0.0, -0.0, 0.0, 3.0]))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_sums_of_what_agrees(count: int) -> None:
    choices: list[Consensus] = ["sum", "count"]
    ways: list[Negative] = ["subtract", "elect"]
    weights = ([0.5, 0.3, 1.0, 0.2, 0.9], [0.5, -0.3, 0.0, 1.2, -0.9], [-1.0] * 5)
    values = torch.stack([odd_values(1000 + i)[:1000].bfloat16().float() for i in range(count)])
    values[0, 5:100], values[-1, 5:100] = 1.0, -1.0  # nobody wins
    for full, normalize, consensus, negative in itertools.product(
        weights, (False, True), choices, ways
    ):
        weight = full[:count]
        votes = [w >= 0 or negative == "elect" for w in weight]
        expected = _consensus_sum_by_torch(values.clone(), weight, votes, normalize, consensus)
        found = consensus_sum(
            values.clone(), weight, normalize=normalize, consensus=consensus, negative=negative
        )
        assert same_bits(found, expected), (weight, normalize, consensus, negative)


def test_weighted_sums_do_not_fuse_products_with_sums() -> None:
    values, weight = torch.stack([odd_values(4099), odd_values(4100)[:4099]]), [0.3, 0.7]
    expected = values[0] * 0.3 + values[1] * 0.7
    assert same_bits(weighted_sum(values.clone(), weight), expected)


def squares(key: int, counter: int) -> int:
    """32 bits, as Widynski 2020, arXiv:2004.06278, lists the program."""
    x = y = counter * key % 2**64
    z = (y + key) % 2**64
    for add in (y, z, y):
        x = (x * x + add) % 2**64
        x = (x >> 32) | (x << 32) % 2**64
    return (x * x + z) % 2**64 >> 32


@pytest.mark.parametrize("start", [0, 1, 262_143, 2**33])
def test_random_numbers_are_those_of_the_paper(start: int) -> None:
    seed = 17675689295421930703  # of "key": that the stream never changes unseen
    expected = [(squares(seed, start + i) >> 8) * 2.0**-24 for i in range(50)]
    assert uniforms("key", start, start + 50).tolist() == expected


def test_random_numbers_depend_on_their_place_alone() -> None:
    assert torch.equal(uniforms("key", 0, 1000)[300:700], uniforms("key", 300, 700))
    assert uniforms("key", 7, 7).shape == (0,)


def test_random_numbers_spread_evenly_and_keep_no_memory() -> None:
    numbers = torch.stack([uniforms(f"key {i}", 0, 1 << 18) for i in range(4)]).double()
    counts = torch.stack([torch.histc(row, 256, 0, 1) for row in numbers])
    chi_squared = ((counts - 1024) ** 2 / 1024).sum(1)
    assert bool(((chi_squared > 160) & (chi_squared < 360)).all())  # 255 ± 4.6 deviations
    centred = numbers - 0.5
    shifted = (centred[:, 1:] * centred[:, :-1]).mean(1) * 12 * 2**9
    across = (centred[1:] * centred[:-1]).mean(1) * 12 * 2**9
    assert shifted.abs().max() < 5
    assert across.abs().max() < 5


@pytest.mark.parametrize("columns", [1, 2, 3, 17, 1024, 2816, 32_000])
@pytest.mark.parametrize("kind", ["normal", "bfloat16", "sparse", "zero", "heavy", "one giant"])
def test_ranks_are_those_of_a_stable_sort(columns: int, kind: str) -> None:
    numbers = torch.randn((3, columns), generator=torch.Generator().manual_seed(columns)).abs()
    numbers = {
        "normal": numbers,
        "bfloat16": numbers.bfloat16().float(),
        "sparse": numbers * (numbers > 1),
        "zero": numbers * 0,
        "heavy": torch.exp(20 * numbers),
        "one giant": torch.cat([numbers[:, :1] + 1e9, numbers[:, 1:] * 1e-8], dim=1),
    }[kind]
    order = columns - 1 - numbers.flip(1).argsort(dim=1, stable=True)
    steps = torch.arange(columns, dtype=torch.float32).expand_as(numbers)
    signed = numbers * torch.tensor([1.0, -1.0]).repeat(columns)[:columns]
    assert torch.equal(ranks(signed), torch.empty_like(numbers).scatter_(1, order, steps))


@pytest.mark.parametrize("size", [1, 7, 8, 1000, 4099])
def test_what_lies_between_two_bounds(size: int) -> None:
    numbers = odd_values(size).abs().bfloat16().float()
    for low, high in [(0.5, 0.75), (0.0, INF), (2.0, 2.0), (0.0, 0.0)]:
        above, found, places = between(numbers, low, high)
        inside = (numbers > low) & (numbers <= high)
        assert above == int((numbers > high).sum())
        assert torch.equal(places, inside.nonzero().flatten())
        assert torch.equal(found, numbers[inside])
