"""Classifiers of handwritten digits: the network, its data, its score and the seeds to evolve.

The problem that the paper calls MNIST (Competition and Attraction Improve Model Fusion, GECCO 2025,
arXiv:2508.16204) is `sklearn.datasets.load_digits`: 8 x 8 images of values 0 to 16, unscaled.

``python digits.py [--seed N] [FOLDER]`` writes the seeds as folders with a model.safetensors.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import cross_entropy

TRAIN = 1437  # of 1797 images in the order of the data set; the others are the test
SIZES = (64, 256, 10)
SIGMA = 0.01  # of a random seed's weights
STEPS, LEARNING_RATE = 10, 0.003  # of Adam, on all images of five digits at once


class Layer(Module):
    """x W + b, with W (inputs, outputs): its rows and then b are the order of the paper's genome.

    Names sort in that order, too, which is the one in which crossover lays tensors end to end.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.matrix = Parameter(torch.zeros(inputs, outputs))
        self.offset = Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(E, inputs) to (E, outputs)."""
        return x @ self.matrix + self.offset


class Digits(Module):
    """64-256-10 with ReLU: 19 210 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = Layer(*SIZES[:2])
        self.layer2 = Layer(*SIZES[1:])

    def forward(self, images: Tensor) -> Tensor:
        """(E, 64) pixels to (E, 10) logits."""
        hidden: Tensor = torch.relu(self.layer1(images))
        logits: Tensor = self.layer2(hidden)
        return logits


def build() -> Digits:
    """What the engine loads candidates into."""
    return Digits()


class Split(NamedTuple):
    """Images (E, 64) float32 and labels (E,) int64."""

    images: Tensor
    labels: Tensor


@cache
def data(split: str) -> Split:
    """The images that are searched on, or those that are held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    part = slice(None, TRAIN) if split == "search" else slice(TRAIN, None)
    images = torch.tensor(found.data[part], dtype=torch.float32)
    return Split(images, torch.tensor(found.target[part], dtype=torch.int64))


def accuracy(module: Module, split: str) -> Tensor:
    """The scorer: 1 for each image whose digit is recognized, else 0."""
    images, labels = data(split)
    logits: Tensor = module(images)
    return (logits.argmax(-1) == labels).float()


def scratch(seed: int) -> Digits:
    """A seed of noise."""
    generator = torch.Generator().manual_seed(seed)
    module = Digits()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, SIGMA, generator=generator)
    return module


def pretrained(seed: int, digits: range) -> Digits:
    """A seed of noise that has been trained to tell a few digits."""
    module = scratch(seed)
    train(module, digits)
    return module


def train(module: Digits, digits: range) -> None:
    """Ten steps of Adam on all images of some digits."""
    images, labels = data("search")
    chosen = (labels >= digits.start) & (labels < digits.stop)
    adam = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        loss: Tensor = cross_entropy(module(images[chosen]), labels[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()


def write_seeds(folder: Path, seed: int = 0) -> None:
    """Two seeds of noise and two that are trained, on the digits 0 to 4 and 5 to 9.

    Args:
        seed: of the noise; the trained ones begin as the others do.
    """
    first, second = 2 * seed, 2 * seed + 1
    for name, module in {
        "scratch_a": scratch(first),
        "scratch_b": scratch(second),
        "low": pretrained(first, range(5)),
        "high": pretrained(second, range(5, 10)),
    }.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = folder / name / "model.safetensors"
        save_file(module.state_dict(), file, metadata={"format": "pt"})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "seeds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_seeds(arguments.folder, arguments.seed)
