"""Gram matrices of the inputs of linear layers: G = E[x xᵀ] over tokens.

Source: Jin et al. 2023, arXiv:2212.09849.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import PlanError
from evomerge.statistics.examples import Example


class GramMatrices:
    """Sums of x xᵀ in float32, one matrix for all layers that are called with the same x.

    Args:
        model: a Transformers model in float32.
        owners: its parameters by their names in the checkpoint.
        diagonal: add up x² only.

    Raises:
        PlanError: layers that store their weights as (in, out), as GPT-2's do.
    """

    def __init__(
        self, model: Any, owners: Mapping[str, torch.nn.Parameter], diagonal: bool = False
    ) -> None:
        self._model = model
        self._diagonal = diagonal
        self.sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._leaders: dict[str, str] = {}  # tensor to the first one that had the same x
        # the latest x, its version (counts in-place writes), and who was called with it first
        self._last: tuple[Tensor, int, str] | None = None
        self.tokens = 0
        names = {id(parameter): name for name, parameter in owners.items()}
        modules = list(model.modules())
        _refuse_transposed(modules, names)
        # a tied head is an embedding too, to which the equation of linear layers does not apply
        embeddings = {id(m.weight) for m in modules if isinstance(m, torch.nn.Embedding)}
        for module in modules:
            weight = id(getattr(module, "weight", None))
            if isinstance(module, torch.nn.Linear) and weight not in embeddings:
                hook = self._adder(names[weight])
                module.register_forward_pre_hook(hook, with_kwargs=True)

    @property
    def aliases(self) -> dict[str, str]:
        """Tensor to the tensor under whose name their common matrix is stored."""
        return {name: leader for name, leader in self._leaders.items() if name != leader}

    def add(self, batch: Sequence[Example]) -> None:
        """Add the inputs of all layers on a batch of examples of equal length.

        Raises:
            PlanError: a layer shares its input with another in some calls only.
        """
        tokens = torch.tensor(batch, device=self._model.device)
        with torch.no_grad():
            self._model(input_ids=tokens, use_cache=False)
        self._last = None
        self.tokens += tokens.numel()

    def results(self) -> Iterator[tuple[str, Tensor]]:
        """Name and mean over the tokens that reached the layer, in the order of the names."""
        for name in sorted(self.sums):
            mean = self.sums[name] / self._counts[name]
            yield name, mean if self._diagonal else (mean + mean.T) / 2

    def _adder(self, name: str) -> Any:
        def add(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            if x.numel() == 0:
                return  # an expert that no token was sent to
            if self._last is None or self._last[0] is not x or self._last[1] != x._version:
                self._last = x, x._version, name
                self._add(name, x.flatten(0, -2).float())
            leader = self._last[2]
            if self._leaders.setdefault(name, leader) != leader:
                raise PlanError(
                    f"{name}: shares its input with {leader} in some calls only, so that neither "
                    "has a Gram matrix. Use --kind fisher."
                )

        return add

    def _add(self, name: str, x_TI: Tensor) -> None:
        width = x_TI.shape[-1]
        if name not in self.sums:
            shape = (width,) if self._diagonal else (width, width)
            self.sums[name] = x_TI.new_zeros(shape)
        if self._diagonal:
            self.sums[name] += x_TI.square().sum(0)
        else:
            self.sums[name].addmm_(x_TI.T, x_TI)
        self._counts[name] = self._counts.get(name, 0) + len(x_TI)


def _refuse_transposed(modules: Sequence[Any], names: Mapping[int, str]) -> None:
    from transformers.pytorch_utils import Conv1D

    transposed = [names[id(module.weight)] for module in modules if isinstance(module, Conv1D)]
    if transposed:
        raise PlanError(
            f"{len(transposed)} weights, {transposed[0]} first, are stored as (in, out), "
            "expected (out, in): Gram matrices serve torch.nn.Linear only. Use --kind fisher."
        )
