"""The diagonal of the Fisher information.

F = 1/E Σ_e (∂/∂θ Σ_t log p(y_t | x_<t))², E examples, with y_t drawn from the model itself. The
labels of an example are independent, so that in the mean over draws the cross terms of the square
vanish, and F is the expectation that defines it. Squares are taken of one example's gradient at a
time: those of a batch's summed gradient would hold cross terms between examples.

Source: Matena & Raffel 2022, arXiv:2111.09832.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.statistics.examples import Example
from evomerge.weights.writer import Spec


class Fisher:
    """Squared gradients of the examples' sampled labels, added up in float32.

    Args:
        model: a Transformers model in float32; its parameters get gradients.
        owners: checkpoint names of the parameters.
        seed: of the labels.
    """

    def __init__(self, model: Any, owners: Mapping[str, torch.nn.Parameter], seed: int) -> None:
        self._model = model
        self._seed = seed
        self._sums = {name: torch.zeros_like(owner) for name, owner in owners.items()}
        self._examples = 0
        self.tokens = 0
        model.requires_grad_(True)
        for name, parameter in owners.items():
            hook = self._square(name)
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    @property
    def aliases(self) -> dict[str, str]:
        """No tensor shares its statistic with another."""
        return {}

    @property
    def specs(self) -> list[Spec]:
        """What `results` will yield."""
        return [Spec(n, tuple(t.shape), torch.float32) for n, t in sorted(self._sums.items())]

    def add(self, batch: Sequence[Example]) -> None:
        """Add the squared gradients of one example, all of whose tokens but the first are drawn."""
        (example,) = batch
        device = next(iter(self._sums.values())).device
        tokens = torch.tensor([example[:-1]], device=device)
        logits = self._model(input_ids=tokens, use_cache=False).logits[0]
        draws = np.random.default_rng([self._seed, self._examples]).random(len(logits))
        labels = sample(logits.detach(), torch.from_numpy(draws).to(device))
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        self._examples += 1
        self.tokens += len(labels)

    def results(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mean over the examples, in the order of the names."""
        for name in sorted(self._sums):
            yield name, self._sums[name] / self._examples

    def _square(self, name: str) -> Any:
        def square(parameter: Tensor) -> None:
            # whatever shares the parameter has already added to its gradient
            assert parameter.grad is not None
            self._sums[name].addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None  # so that a second copy of all weights is never held

        return square


def sample(logits_TV: Tensor, draws_T: Tensor) -> Tensor:
    """One label per row, by inversion of the distribution function.

    Args:
        logits_TV: (T, V).
        draws_T: (T,) float64 in [0, 1).

    Returns:
        (T,) int64.
    """
    below_TV = logits_TV.softmax(-1, dtype=torch.float64).cumsum(-1)
    # times the last value, which rounding may leave off 1; strictly above, so that no
    # label of probability 0 is drawn
    found = torch.searchsorted(below_TV, (draws_T * below_TV[:, -1])[:, None], right=True)
    return found[:, 0].clamp(max=logits_TV.shape[-1] - 1)
