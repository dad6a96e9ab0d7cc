"""Weights of several candidates side by side, one of which a module computes with at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import Module

from evomerge.errors import ConfigError, Problem


class WeightSlots:
    """Sets of a module's weights.

    Args:
        module: its tensors are contiguous. Those named are moved into slots, the others shared.
        names: keys of its ``state_dict``; for tensors that are one, any of their names.
        count: how many slots.

    Raises:
        ConfigError: several slots, and tensors that are parts of others.
    """

    def __init__(self, module: Module, names: Sequence[str], count: int) -> None:
        live = tensors(module)
        self.module, self._callable = module, _Callable(module)
        self._firsts: dict[tuple[int, torch.Size], str] = {}  # of tensors that are one
        self._alias = {n: self._firsts.setdefault(_identity(live[n]), n) for n in names}
        self._owners = {
            first: {name: tensor for name, tensor in live.items() if _identity(tensor) == identity}
            for identity, first in self._firsts.items()
        }
        if count == 1:  # where the module has them, however they share memory
            self._stacked = {n: live[n].detach()[None] for n in self._owners}
            return
        memory = [live[name].untyped_storage().data_ptr() for name in self._owners]
        if len(set(memory)) < len(memory):
            text = "some tensors of the module are parts of others."
            raise ConfigError(Problem(("engine", "at_once"), text, "Take at_once: 1."))
        self._stacked = {
            name: torch.zeros((count, *live[name].shape), dtype=live[name].dtype, device=device)
            for name in self._owners
            for device in [live[name].device]
        }
        self.select_slot(0)

    def targets(self, slot: int) -> dict[str, Tensor]:
        """The tensors of a slot, by every name."""
        return {name: self._stacked[first][slot] for name, first in self._alias.items()}

    def select_slot(self, slot: int) -> None:
        """Let the module compute with the tensors of a slot."""
        for name, owners in self._owners.items():
            for owner in owners.values():
                owner.data = self._stacked[name][slot]

    def for_all_slots(self, function: Callable[[Module], Tensor]) -> Tensor:
        """(count, ...) results of a function of the module, called with the tensors of each slot.

        Raises:
            Exception: whatever the function does that `torch.func.vmap` cannot.
        """

        def one(values: dict[str, Tensor]) -> Any:
            # two parameters may share memory without being one, which PyTorch does not see
            each = {
                f"module.{name}": values[first] for first in values for name in self._owners[first]
            }
            return functional_call(self._callable, each, (function,))

        result: Tensor = vmap(one)(self._stacked)
        return result


class _Callable(Module):
    """Calls a function with a module, so that `functional_call` can replace its tensors."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Module], Tensor]) -> Tensor:
        return function(self.module)


def tensors(module: Module) -> dict[str, Tensor]:
    """A module's parameters and persistent buffers by name, not copied; no other state."""
    state = module.state_dict(keep_vars=True)
    return {name: item for name, item in state.items() if isinstance(item, Tensor)}


def _identity(tensor: Tensor) -> tuple[int, torch.Size]:
    """Address and shape: equal for tensors that are one; harmlessly so for empty tensors, too."""
    return tensor.data_ptr(), tensor.shape
