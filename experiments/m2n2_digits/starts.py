"""The two models that a run starts from, as folders that any search could be given.

From scratch they are noise of standard deviation 0.01. The pretrained ones are those of the
published code, drawn by its generator from its seed 42 and then shown digits 0-4 and 5-9: the
scores of their mixtures depend on which two they are.
"""

from __future__ import annotations

from pathlib import Path

import digits
import numpy as np
import torch
from classifier import SIZE, Floats, tensors
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from evomerge.kernels.random import normals

NAMES = ("first", "second")

Words = NDArray[np.uint32]


def write_starts(folder: Path, *, pretrained: bool, seed: int) -> dict[str, str]:
    """Name to folder of both models.

    Args:
        folder: where they are written to.
        pretrained: those of the published code, whatever ``seed`` is.
        seed: of the noise.
    """
    models = pretrained_models() if pretrained else [noise(seed, name) for name in NAMES]
    found = {}
    for name, weights in zip(NAMES, models, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = folder / name / "model.safetensors"
        save_file(tensors(weights), file, metadata={"format": "pt"})
        found[name] = str(folder / name)
    return found


def noise(seed: int, name: str) -> Floats:
    """(19 210,) of standard deviation 0.01."""
    return np.float32(digits.SIGMA) * normals(f"{seed}\0{name}", 0, SIZE).numpy()


def pretrained_models() -> list[Floats]:
    """Two networks after ten steps of Adam, one on digits 0-4 and one on 5-9."""
    found = []
    for key, known in zip(_split(_key(42)), (range(5), range(5, 10)), strict=True):
        module = digits.build()
        vector_to_parameters(torch.from_numpy(digits.SIGMA * _normal(key)), module.parameters())
        digits.train(module, known)
        found.append(parameters_to_vector(module.parameters()).detach().numpy())
    return found


# The generator of jax 0.4 (`jax.random`), so that the pretrained models are the published ones.
# Source: Threefry-2x32 with 20 rounds, Salmon et al. 2011, doi:10.1145/2063384.2063405.

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _key(seed: int) -> Words:
    return np.array([0, seed], np.uint32)


def _split(key: Words) -> Words:
    """(2, 2) two keys."""
    return _threefry(key, np.arange(4, dtype=np.uint32)).reshape(2, 2)


def _normal(key: Words) -> Floats:
    """(19 210,) float32."""
    bits = _threefry(key, np.arange(SIZE, dtype=np.uint32))
    unit = (bits >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = np.maximum(low, unit * (np.float32(1) - low) + low)
    found: Floats = torch.from_numpy(uniform).double().erfinv().float().numpy()
    return np.float32(np.sqrt(2)) * found


def _threefry(key: Words, counts: Words) -> Words:
    """As many words as counts, an even number."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = np.split(counts, 2)
    x, y = x + keys[0], y + keys[1]
    for number in range(5):
        for by in _ROTATIONS[number % 2]:
            x = x + y
            y = x ^ (y << np.uint32(by) | y >> np.uint32(32 - by))
        x = x + keys[(number + 1) % 3]
        y = y + keys[(number + 2) % 3] + np.uint32(number + 1)
    return np.concatenate([x, y])
