"""Normal numbers against the formulas in float64, and against what normal numbers are."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from evomerge.kernels.random import normals

WORD = (1 << 64) - 1


def squares64(counter: int, key: int) -> int:
    """Widynski's five rounds, in whole numbers."""

    def swapped(x: int) -> int:
        return (x >> 32 | x << 32) & WORD

    x = y = counter * key & WORD
    z = y + key & WORD
    x = swapped(x * x + y & WORD)
    x = swapped(x * x + z & WORD)
    x = swapped(x * x + y & WORD)
    t = x * x + z & WORD
    x = swapped(t)
    return t ^ (x * x + y & WORD) >> 32


def test_they_are_box_and_mullers_of_the_generators_bits() -> None:
    key = int.from_bytes(hashlib.blake2b(b"7\0a", digest_size=8).digest(), "little") | 1
    expected: list[float] = []
    for counter in range(5000):
        bits = squares64(counter, key)
        radius = math.sqrt(-2 * math.log(((bits >> 32) + 0.5) * 2.0**-32))
        angle = 2 * math.pi * (bits & 0xFFFFFFFF) * 2.0**-32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    assert normals("7\0a", 0, 10_000).tolist() == pytest.approx(expected, abs=2e-6)


def test_they_have_these_bits_on_every_machine() -> None:
    digest = hashlib.sha256(normals("key", 0, 100_000).numpy().tobytes()).hexdigest()
    assert digest[:12] == "41ce2d9d01e6"


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (6, 100), (7, 100), (7, 101), (3, 3)])
def test_a_number_depends_on_key_and_position_alone(start: int, stop: int) -> None:
    whole = normals("key", 0, 200)
    assert torch.equal(normals("key", start, stop), whole[start:stop])
    memory = torch.full((stop - start,), 9.0)
    assert normals("key", start, stop, memory) is memory
    assert torch.equal(memory, whole[start:stop])


def test_their_moments_are_those_of_the_normal_distribution() -> None:
    z = normals("moments", 0, 1_000_000).double().numpy()
    moments = [float((z**power).mean()) for power in range(1, 7)]
    # five standard errors each
    bounds = [math.sqrt(v / len(z)) * 5 for v in (1, 2, 15, 96, 945, 10170)]
    for found, expected, bound in zip(moments, (0, 1, 0, 3, 0, 15), bounds, strict=True):
        assert abs(found - expected) < bound


def test_neighbours_and_other_keys_are_not_correlated() -> None:
    z, other = normals("a", 0, 400_001).numpy(), normals("b", 0, 400_001).numpy()
    for pair in ((z[0:-1:2], z[1::2]), (z[:-1], z[1:]), (z, other), (z**2, other**2)):
        assert abs(np.corrcoef(*pair)[0, 1]) < 5 / math.sqrt(len(pair[0]))
