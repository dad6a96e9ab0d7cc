"""The network of `digits.py` without a module, in memory that is used again.

It gets the same images right as the engine does (tests/experiments/test_m2n2_digits.py).
"""

from __future__ import annotations

import math

import digits
import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PIXELS, HIDDEN, CLASSES = digits.SIZES
SHAPES = {name: tuple(p.shape) for name, p in digits.build().named_parameters()}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())


class Classifier:
    """Says which images a network gets right, in memory that it uses again.

    Args:
        pixels: (E, 64) float32.
        labels: (E,) int64.
    """

    def __init__(self, pixels: Floats, labels: NDArray[np.int64]) -> None:
        self.labels, count = labels, len(labels)
        # a pixel that is always on, so that the hidden layer's offset is one more row of weights
        self._pixels = torch.from_numpy(np.hstack([pixels, np.ones((count, 1), np.float32)]))
        self._hidden = torch.empty(count, HIDDEN, dtype=torch.float32)
        self._logits = torch.empty(count, CLASSES, dtype=torch.float32)

    @classmethod
    def of(cls, split: str) -> Classifier:
        """For the images that are searched on, or those that are held out."""
        images, labels = digits.data(split)
        return cls(images.numpy(), labels.numpy())

    def sorted(self, keys: NDArray[np.int64]) -> Classifier:
        """The same with the images in the order of (E,) keys."""
        order = np.argsort(keys, kind="stable")
        return Classifier(self._pixels.numpy()[order, :-1], self.labels[order])

    def solved(self, weights: Floats) -> NDArray[np.bool_]:
        """(E,) whether each image's digit has the largest output, of equals the first.

        Args:
            weights: (19 210,) the tensors of `SHAPES` end to end.
        """
        edge, end = (PIXELS + 1) * HIDDEN, -CLASSES
        elements = torch.from_numpy(weights)
        torch.mm(self._pixels, elements[:edge].view(-1, HIDDEN), out=self._hidden)
        self._hidden.clamp_(min=0)
        second = elements[edge:end].view(HIDDEN, CLASSES)
        torch.addmm(elements[end:], self._hidden, second, out=self._logits)
        found: NDArray[np.bool_] = self._logits.numpy().argmax(1) == self.labels
        return found


def tensors(weights: Floats) -> dict[str, Floats]:
    """Name to tensor, views of the (19 210,) weights."""
    found, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + math.prod(shape)
        found[name] = weights[start:stop].reshape(shape)
        start = stop
    return found
