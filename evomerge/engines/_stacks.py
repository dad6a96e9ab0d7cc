"""Candidates of any depth in Transformers, which share the tensors that they have in common."""

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
from evomerge.engines._pool import TensorPool, distinct_bytes
from evomerge.weights.metadata import merged_config
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan

_KEPT = 16  # configs whose modules are kept: they hold no weights


class Stacks:
    """Loads plans of any depth, one live model at a time.

    Memory is that of the distinct tensors of the largest stack: those which a candidate leaves
    free are kept for the next, so that a path over blocks that are held takes no merging.

    Args:
        models: with the deepest stack that is expected. Their distinct tensors set the limit.
        dtype: of the live models.
        generation: the `GenerationConfig` of them all, if there is one.
        options: for Transformers.

    Attributes:
        model: without weights, as deep as ``models``.

    Raises:
        PlanError: Transformers cannot build the model, or its tensors are not those of the models.
    """

    def __init__(
        self,
        models: Models,
        dtype: torch.dtype,
        device: torch.device,
        generation: Any,
        **options: Any,
    ) -> None:
        self._dtype, self._device, self._options = dtype, device, options
        self._generation = generation
        self._shells: dict[str, ModelShell] = {}  # by config, in the order of their last use
        self._used: ModelShell | None = None
        first = self._shell(models)
        self.model = first.model
        self._pool = TensorPool(distinct_bytes(models, first.tensors), device)

    def load(self, plan: Plan) -> Any:
        """The plan as a Transformers model. The previous model is left without weights.

        Raises:
            PlanError: Transformers cannot build it.
            CheckpointError, CandidateError: as `merge_into`.
        """
        if self._used is not None:
            self._used.fill(self._used.tensors)
        shell = self._shell(plan.models)
        shell.fill(self._pool.tensors(plan, shell.tensors))
        self._used = shell
        if self._generation is not None:
            shell.model.generation_config = self._generation
        return shell.model

    def _shell(self, models: Models) -> ModelShell:
        """The shell of the merged config: one that was kept, or a new one."""
        key = json.dumps(merged_config(models, models.dtype), sort_keys=True)
        shell = self._shells.pop(key, None)
        if shell is None or shell.tensors.keys() != {slot.name for slot in models.slots}:
            shell = ModelShell(models, self._dtype, self._device, **self._options)
        self._shells[key] = shell
        if len(self._shells) > _KEPT:
            del self._shells[next(iter(self._shells))]
        return shell


class ModelShell:
    """The modules that a merged config describes, their parameters on the meta device.

    Every block is made for its place in the stack: it has the index of its own keys and values in
    the cache, and the kind of attention that the merged config gives it. Blocks are the same only
    in the tensors that they are given.

    Args:
        dtype, device: of its buffers.

    Attributes:
        tensors: the model's parameters and buffers by the names of the plan, on the meta device.

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
        # by memory, the modules and names that hold a tensor: several if it is tied
        self._sites = defaultdict[int, list[tuple[nn.Module, str]]](list)
        for module in self.model.modules():
            for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._sites[memory_of(tensor)].append((module, leaf))

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute with these tensors, which other shells may share."""
        for name, tensor in tensors.items():
            for module, leaf in self._sites[memory_of(self.tensors[name])]:
                if leaf in module._buffers:
                    module._buffers[leaf] = tensor
                else:
                    module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
