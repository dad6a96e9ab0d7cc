"""Children by the steps of a lineage, against the same operations written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels.random import normals
from evomerge.kernels.stack import TILE, Stack
from evomerge.kernels.steps import offspring, replay
from evomerge.operators import Settings, combine, get
from evomerge.recipes import Lineage, LineageStep

SEED = 5


def parents(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    first, second = torch.randn(2, size, generator=generator)
    return first, second


def mutant(size: int) -> LineageStep:
    return LineageStep(
        number=3,
        parents=("a", "b"),
        ends=(size // 3, size),
        weights=((0.25, 0.8), (1.1, -0.3)),
        sigma=0.01,
    )


def test_every_element_is_the_same_four_operations_in_float32() -> None:
    first, second = parents(1001)
    a = np.where(np.arange(1001) < 333, np.float32(0.25), np.float32(1.1))
    b = np.where(np.arange(1001) < 333, np.float32(0.8), np.float32(-0.3))
    noise = normals(f"{SEED}\0mutation\0{3}", 0, 1001).numpy()
    expected = a * first.numpy() + b * second.numpy() + np.float32(0.01) * noise
    found = offspring(mutant(1001), [first, second], SEED)
    assert found.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("start", [0, 1, 332, 333, 500])
def test_a_stretch_of_a_child_is_the_child_of_stretches(start: int) -> None:
    first, second = parents(1000)
    whole = offspring(mutant(1000), [first, second], SEED)
    part = offspring(mutant(1000), [first[start:777], second[start:777]], SEED, start=start)
    assert torch.equal(part, whole[start:777])


def test_torch_operations_give_the_bits_of_the_compiled_loop() -> None:
    first, second = parents(1000)
    compiled = offspring(mutant(1000), [first, second], SEED)
    strided = [torch.stack([t, t], 1)[:, 0] for t in (first, second)]
    assert torch.equal(offspring(mutant(1000), strided, SEED), compiled)


def test_without_noise_a_copy_is_its_parent() -> None:
    first, _ = parents(10)
    copy = LineageStep(number=0, parents=("a",), ends=(10,), weights=((1.0,),))
    assert torch.equal(offspring(copy, [first], SEED), first)


def descent(size: int) -> Lineage:
    """Five generations, of which one parent is used late and one twice by the same child."""
    steps = [
        LineageStep(number=2, parents=("a", "b"), ends=(size,), weights=((0.5, 0.5),), sigma=0.1),
        LineageStep(
            number=4, parents=(2, "b"), ends=(7, size), weights=((1, 0), (0.3, 0.7)), sigma=0.1
        ),
        LineageStep(number=5, parents=(4, 4), ends=(size,), weights=((0.4, 0.6),), sigma=0.1),
        LineageStep(number=9, parents=(5,), ends=(size,), weights=((1.0,),), sigma=0.2),
        LineageStep(number=11, parents=(9, 2), ends=(9, size), weights=((0.1, 0.9), (0.9, 0.1))),
    ]
    return Lineage(steps=tuple(steps))


def test_a_replay_does_the_steps_one_after_another() -> None:
    first, second = parents(100)
    known: dict[str | int, Tensor] = {"a": first, "b": second}
    for step in descent(100).steps:
        known[step.number] = offspring(step, [known[parent] for parent in step.parents], SEED)
    found = replay(descent(100), {"a": first, "b": second}, SEED)
    assert torch.equal(found, known[11])


def test_the_operator_replays_a_tensor_wherever_it_lies_in_the_model() -> None:
    size, offset = TILE + 100, 1234
    first, second = parents(offset + size)
    whole = replay(descent(offset + size), {"a": first, "b": second}, SEED)
    stack = Stack(
        [first[offset:], second[offset:]],
        labels=("a", "b"),
        seed=SEED,
        lineage=descent(offset + size),
        offset=offset,
    )
    found = torch.empty(size)

    def out(start: int, values: Tensor) -> None:
        found[start : start + len(values)] = values

    combine(get("segments"), stack, Settings({}, {"space": "weights"}), out)
    assert torch.equal(found, whole[offset:])
