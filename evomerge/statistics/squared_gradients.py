"""Mean squared gradients: the Fisher information's diagonal, and an optimizer's second moments.

Fisher: F = 1/E Σ_e (∂/∂θ Σ_t log p(y_t | x_<t))² over E examples, with labels y_t drawn from the
model itself. The labels of an example are independent, so that the cross terms of the square vanish
in the mean over draws. Squares are taken of one example's gradient at a time: those of a batch's
gradient would hold cross terms between examples.

Second moments: v = 1/B Σ_b g_b² over B batches, with g_b the gradient of the batch's training loss,
the mean of -log p(x_t | x_<t) over its tokens. Adam's ``exp_avg_sq`` is a running mean of the same
squares, which comes to v if training goes on where it ended.

Source: Matena & Raffel 2022, arXiv:2111.09832; Kingma & Ba 2015, arXiv:1412.6980.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evomerge.statistics.examples import Example


class _SquaredGradients:
    """Sums of squared gradients in float32, and their mean.

    Args:
        model: a Transformers model in float32; its parameters get gradients.
        owners: its parameters by their names in the checkpoint.
    """

    def __init__(self, model: Any, owners: Mapping[str, torch.nn.Parameter]) -> None:
        self._model, self._owners = model, owners
        self.sums = {name: torch.zeros_like(owner) for name, owner in owners.items()}
        self._count = 0  # of squares that were added up
        self.tokens = 0
        model.requires_grad_(True)

    def results(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mean of the squares, in the order of the names."""
        for name in sorted(self.sums):
            yield name, self.sums[name] / self._count

    def _logits(self, example: Example) -> Tensor:
        """(T, V) the predictions of all tokens but the first."""
        tokens = torch.tensor([example[:-1]], device=self._model.device)
        logits: Tensor = self._model(input_ids=tokens, use_cache=False).logits[0]
        self.tokens += len(logits)
        return logits

    def _square(self, name: str) -> None:
        """Add the square of a parameter's gradient, and clear the gradient."""
        parameter = self._owners[name]
        if parameter.grad is not None:  # an expert that no token was sent to has none
            self.sums[name].addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None


class Fisher(_SquaredGradients):
    """The diagonal of the Fisher information.

    Args:
        model: a Transformers model in float32; its parameters get gradients.
        owners: its parameters by their names in the checkpoint.
        seed: of the labels.
    """

    def __init__(self, model: Any, owners: Mapping[str, torch.nn.Parameter], seed: int) -> None:
        super().__init__(model, owners)
        self._seed = seed
        for name, parameter in owners.items():
            # squared once all uses of the parameter have been added to its gradient, and cleared,
            # so that a second copy of all weights is never held
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda _, name=name: self._square(name)
            )

    def add(self, batch: Sequence[Example]) -> None:
        """Add the squared gradients of one example, with labels drawn for all tokens but one."""
        (example,) = batch
        logits = self._logits(example)
        draws = np.random.default_rng([self._seed, self._count]).random(len(logits))
        labels = sample(logits.detach(), torch.from_numpy(draws).to(logits.device))
        torch.autograd.backward(cross_entropy(logits, labels, reduction="sum"))
        self._count += 1


class SecondMoments(_SquaredGradients):
    """What Adam's second moments would be if training went on with the examples."""

    def add(self, batch: Sequence[Example]) -> None:
        """Add the squared gradients of a batch's mean loss; its examples may differ in length."""
        total = sum(len(example) - 1 for example in batch)
        for example in batch:
            logits = self._logits(example)
            labels = torch.tensor(example[1:], device=logits.device)
            torch.autograd.backward(cross_entropy(logits, labels, reduction="sum") / total)
        for name in self._owners:
            self._square(name)
        self._count += 1


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
    labels = torch.searchsorted(below_TV, (draws_T * below_TV[:, -1])[:, None], right=True)
    return labels[:, 0].clamp(max=logits_TV.shape[-1] - 1)
