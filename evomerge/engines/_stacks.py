"""Candidates of any depth in Transformers, which share what their blocks have in common."""

from __future__ import annotations

from typing import Any

import torch

from evomerge.engines._pool import Pool, distinct_bytes
from evomerge.engines._skeleton import Skeleton, Skeletons
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan


class Stacks:
    """Turns plans into live models.

    Memory is that of the distinct tensors of the largest stack: those which a candidate leaves
    free are kept for the next, so that a path over blocks that were met takes no merging.

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
        self._skeletons = Skeletons(dtype, device, **options)
        self._generation = generation
        self._used: Skeleton | None = None
        first = self._skeletons.of(models)
        self.model = first.model
        self._pool = Pool(distinct_bytes(models, first.tensors), device)

    def load(self, plan: Plan) -> Any:
        """The plan as a Transformers model. The model before is emptied.

        Raises:
            PlanError: Transformers cannot build it.
            CheckpointError, CandidateError: as `merge_into`.
        """
        if self._used is not None:
            self._used.empty()
        skeleton = self._skeletons.of(plan.models)
        skeleton.fill(self._pool.tensors(plan, skeleton.tensors))
        self._used = skeleton
        if self._generation is not None:
            skeleton.model.generation_config = self._generation
        return skeleton.model
