"""Live models without weights of their own: the same tensors in any stack of blocks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.engines._architecture import empty_model, memory_of, require_fit
from evomerge.weights.metadata import merged_config
from evomerge.weights.models import Models

_KEPT = 16  # configs whose modules are kept: they hold no weights


class Skeleton:
    """The modules that a merged config describes, their parameters on the meta device.

    Every block is made for its place in the stack: it has the index of its own keys and values in
    the cache, and the kind of attention that the merged config gives it. Blocks are the same only
    in the tensors that they are given.

    Attributes:
        model: of Transformers.
        tensors: its parameters and buffers by the names of the plan.

    Raises:
        PlanError: Transformers cannot build it, or its tensors are not those of the models.
    """

    def __init__(
        self, models: Models, dtype: torch.dtype, device: torch.device, **options: Any
    ) -> None:
        from accelerate import init_empty_weights  # a second of import

        config = merged_config(models, models.dtype)
        with TemporaryDirectory(prefix="evomerge-") as name:
            (Path(name) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            with init_empty_weights(include_buffers=False):
                self.model = empty_model(models, Path(name), dtype, device, **options)
        live = self.model.state_dict(keep_vars=True)
        require_fit(models, type(self.model).__name__, live)
        self.tensors: dict[str, Tensor] = {slot.name: live[slot.name] for slot in models.slots}
        self._sites = _sites(self.model)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute with these tensors, which others may share."""
        for name, tensor in tensors.items():
            self._put(name, tensor)

    def empty(self) -> None:
        """Let go of the tensors."""
        self.fill(self.tensors)

    def _put(self, name: str, tensor: Tensor) -> None:
        for module, leaf in self._sites[memory_of(self.tensors[name])]:
            if leaf in module._buffers:
                module._buffers[leaf] = tensor
            else:
                module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def _sites(model: nn.Module) -> Mapping[int, list[tuple[nn.Module, str]]]:
    """Where each tensor is: in several places if it is tied."""
    found = defaultdict[int, list[tuple[nn.Module, str]]](list)
    for module in model.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found[memory_of(tensor)].append((module, leaf))
    return found


class Skeletons:
    """Those of the last few configs.

    Args:
        dtype: of their weights.
        options: for Transformers.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, **options: Any) -> None:
        self._made: dict[str, Skeleton] = {}
        self._dtype, self._device, self._options = dtype, device, options

    def of(self, models: Models) -> Skeleton:
        """That of the merged config.

        Raises:
            PlanError: as `Skeleton`.
        """
        key = json.dumps(merged_config(models, models.dtype), sort_keys=True)
        found = self._made.pop(key, None)
        if found is None or found.tensors.keys() != {slot.name for slot in models.slots}:
            found = Skeleton(models, self._dtype, self._device, **self._options)
        self._made[key] = found
        if len(self._made) > _KEPT:
            del self._made[next(iter(self._made))]
        return found
