"""The part of the vLLM engine that lives in vLLM's own worker processes, next to the weights.

vLLM mixes `MergeExtension` into its worker class by name and calls it by method name, so that what
travels is JSON of a few kilobytes. With tensor parallelism every rank merges the whole model and
vLLM's loaders keep the rank's shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import EvomergeError, InputError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.merge import Out, merge, merge_into
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan, Step, make_plan

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_KEPT = 4  # compositions whose tensors stay lined up
_AHEAD = 4  # merged tensors that may wait for vLLM

Failure = tuple[str, list[str]]


class _Sources(NamedTuple):
    """The open checkpoints, by reference, and how they were lined up, by composition."""

    opened: dict[str, Checkpoint]
    models: dict[str, Models]


class MergeExtension:
    """Methods that vLLM's worker gets; none may be called like one of its own."""

    if TYPE_CHECKING:
        device: torch.device
        vllm_config: VllmConfig

        def get_model(self) -> torch.nn.Module:
            """The live model."""

        def reload_weights(self, *, weights_iterator: Iterator[tuple[str, Tensor]]) -> None:
            """Replace the weights in place, in the layout that vLLM computes with."""

    def open_sources(self, composition: str) -> None:
        """Open the checkpoints of a composition, whose tensors are those of the live model.

        Args:
            composition: `Models.composition` as canonical JSON.
        """
        # vLLM's CPU worker takes this function away from the whole process
        torch.set_num_threads = torch._C.set_num_threads
        self.evomerge_sources = _Sources({}, {})
        self.evomerge_live = self._evomerge_models(composition)

    def load_recipe(self, composition: str, recipe: str) -> Failure | None:
        """Merge into the live weights. Blocks that the recipe lacks become the identity.

        Args:
            composition: of the recipe's plan, as canonical JSON.
            recipe: as canonical JSON.

        Returns:
            None, or what went wrong as the name of an exception and its sentences, because
            exceptions do not cross processes.
        """
        stream: _Stream | None = None
        try:
            wanted = Recipe.from_canonical_json(recipe)
            models = self._evomerge_models(composition)
            plan = make_plan(wanted, models.select(wanted.sources))
            stream = _Stream(plan, self.evomerge_live, self.device)
            with _Loaded(self.get_model()) as loaded:
                self.reload_weights(weights_iterator=iter(stream))
            _repack_tied_head(self.get_model())
            if stream.error is None and (empty := loaded.missing()):
                raise PlanError(
                    f"{models.base.folder}: the checkpoint lacks {len(empty)} parameters of "
                    f"{type(self.get_model()).__name__}, {empty[0]} first."
                )
            if stream.error is not None:
                raise stream.error
        except EvomergeError as error:
            problems = error.problems if isinstance(error, InputError) else [str(error)]
            return type(error).__name__, list(problems)
        except Exception as error:
            at = f" at {stream.at}" if stream is not None and stream.at else ""
            return "RuntimeError", [f"{type(error).__name__}{at}: {error}"]
        return None

    def seed_generators(self, seed: int) -> None:
        """Set the generators that samplers draw from, until `restore_generators`."""
        from vllm.utils.torch_utils import set_random_seed

        self.evomerge_generators = _Generators()
        set_random_seed(seed)

    def restore_generators(self) -> None:
        """Undo `seed_generators`."""
        self.evomerge_generators.restore()

    def _evomerge_models(self, composition: str) -> Models:
        sources = self.evomerge_sources
        if composition not in sources.models:
            while len(sources.models) >= _KEPT:
                del sources.models[next(iter(sources.models))]
            recipe = Recipe.from_canonical_json(composition)
            sources.models[composition] = Models.of(recipe, sources.opened)
        return sources.models[composition]


class _Stream:
    """The merged tensors in the order of the plan, and zeros where it has none.

    Zeros in every tensor of a block make it the identity of a residual network. Zeros also take
    the place of what could not be merged: vLLM cannot break off a reload.

    Attributes:
        error: what the merge failed with.
        at: name of the tensor handed out last.
    """

    def __init__(self, plan: Plan, live: Models, device: torch.device) -> None:
        self.plan, self.live, self.device = plan, live, device
        self.error: Exception | None = None
        self.at = ""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        left = {step.slot.name: step for step in self.plan.steps}
        try:
            for name, value in _merged(self.plan, self.device):
                self.at = name
                yield name, value
                del left[name]
        except Exception as error:
            self.error = error
        for name, step in left.items():
            yield name, torch.zeros(step.slot.shape, dtype=step.dtype)
        planned = {step.slot.name for step in self.plan.steps}
        dtype: torch.dtype = getattr(torch, self.plan.recipe.dtype)
        for slot in self.live.slots:
            if slot.name not in planned:
                yield slot.name, torch.zeros(slot.shape, dtype=dtype)


def _merged(plan: Plan, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor, in order; merged on the device while vLLM loads others."""
    if device.type == "cpu":
        yield from merge(plan)
        return
    ready: Queue[tuple[str, Tensor] | Exception | None] = Queue(_AHEAD)

    def into(step: Step) -> Out:
        tensor = torch.empty(step.slot.shape, dtype=step.dtype, device=device)
        flat, size = tensor.view(-1), tensor.numel()

        def out(start: int, values: Tensor) -> None:
            flat[start : start + values.numel()].copy_(values)
            if start + values.numel() == size:
                ready.put((step.slot.name, tensor))

        return out

    def work() -> None:
        try:
            merge_into(plan, into, device)
            ready.put(None)
        except Exception as error:
            ready.put(error)

    Thread(target=work, daemon=True).start()
    while (item := ready.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


class _Loaded:
    """Notes which parameters a reload fills; vLLM only logs those that it does not."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model: Any = model
        self.expected = {name for name, _ in model.named_parameters()}
        self.found: set[str] | None = set()

    def __enter__(self) -> _Loaded:
        load = self.model.load_weights

        def noting(weights: Iterator[tuple[str, Tensor]]) -> set[str] | None:
            self.found = load(weights)
            return self.found

        self.model.load_weights = noting
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.load_weights

    def missing(self) -> list[str]:
        """Parameters that nothing filled, as far as the model tells."""
        return [] if self.found is None else sorted(self.expected - self.found)


def _repack_tied_head(model: torch.nn.Module) -> None:
    """Make a head that is the embedding compute with the embedding's new values.

    On a CPU vLLM multiplies with a packed copy, which a reload renews only for a head of its own.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        VocabParallelEmbedding,
    )

    tables = [m for m in model.modules() if isinstance(m, VocabParallelEmbedding)]
    own = {id(table.weight) for table in tables if not isinstance(table, ParallelLMHead)}
    for head in tables:
        if isinstance(head, ParallelLMHead) and id(head.weight) in own:
            head.quant_method.process_weights_after_loading(head)


def _cuda_states() -> list[Tensor]:
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if started else []


class _Generators:
    """The state of the process's generators when this was made."""

    def __init__(self) -> None:
        import random

        import numpy as np

        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = _cuda_states()

    def restore(self) -> None:
        """Go back to it."""
        import random

        import numpy as np

        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
