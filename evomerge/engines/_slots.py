"""Weights of several candidates side by side, of which a module has one set at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import Module

from evomerge.errors import ConfigError


class Slots:
    """What a module's tensors are filled from.

    Args:
        module: its tensors are contiguous. Those named are moved into slots, the others shared.
        names: of its ``state_dict``; of tensors that are one, any.
        count: slots.

    Raises:
        ConfigError: several slots, and tensors that lie within others.
    """

    def __init__(self, module: Module, names: Sequence[str], count: int) -> None:
        live = tensors(module)
        self._asked = _Asked(module)
        self._firsts: dict[tuple[int, torch.Size], str] = {}  # of tensors that are one
        self._alias = {n: self._firsts.setdefault(_place(live[n]), n) for n in names}
        self._owners = {
            first: {name: tensor for name, tensor in live.items() if _place(tensor) == place}
            for place, first in self._firsts.items()
        }
        if count == 1:  # where the module has them, however they share memory
            self._stacked = {n: live[n].detach()[None] for n in self._owners}
            return
        memory = [live[name].untyped_storage().data_ptr() for name in self._owners]
        if len(set(memory)) < len(memory):
            raise ConfigError(
                "engine.at_once: some tensors of the module are parts of others. Take at_once: 1."
            )
        self._stacked = {
            name: torch.zeros((count, *live[name].shape), dtype=live[name].dtype, device=device)
            for name in self._owners
            for device in [live[name].device]
        }
        self.turn_to(0)

    def targets(self, slot: int) -> dict[str, Tensor]:
        """The tensors of a slot, by every name."""
        return {name: self._stacked[first][slot] for name, first in self._alias.items()}

    def turn_to(self, slot: int) -> None:
        """Give the module the tensors of a slot."""
        for name, owners in self._owners.items():
            for owner in owners.values():
                owner.data = self._stacked[name][slot]

    def at_all(self, function: Callable[[Module], Tensor]) -> Tensor:
        """(count, ...) what the function gives for the module with each slot's tensors.

        Raises:
            Exception: whatever the function does that `torch.func.vmap` cannot.
        """

        def one(values: dict[str, Tensor]) -> Any:
            # two parameters may share memory without being one, which PyTorch does not see
            each = {
                f"module.{name}": values[first] for first in values for name in self._owners[first]
            }
            return functional_call(self._asked, each, (function,))

        found: Tensor = vmap(one)(self._stacked)
        return found


class _Asked(Module):
    """A module that a function is called with, all of whose tensors can be replaced."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Module], Tensor]) -> Tensor:
        return function(self.module)


def tensors(module: Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers themselves, by name; no other state that it keeps."""
    state = module.state_dict(keep_vars=True)
    return {name: item for name, item in state.items() if isinstance(item, Tensor)}


def _place(tensor: Tensor) -> tuple[int, torch.Size]:
    """The same for tensors that are one; those without elements have no address, but do no harm."""
    return tensor.data_ptr(), tensor.shape
