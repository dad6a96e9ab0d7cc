"""The part of the vLLM engine that lives in vLLM's own worker processes, next to the weights.

vLLM mixes `MergeExtension` into its worker class by name and calls it by method name, so that what
travels is JSON of a few kilobytes. With tensor parallelism every rank merges the whole model and
vLLM's loaders keep the rank's shard.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from evomerge.engines._packing import file_arrays, repacked
from evomerge.engines._process import keep_freed_memory
from evomerge.engines._vllm_start import repair_llvmlite
from evomerge.engines._vllm_stream import TensorStream
from evomerge.errors import EvomergeError, InputError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.architecture.arrays import Array
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

if TYPE_CHECKING:
    from vllm.config import VllmConfig

repair_llvmlite()  # this process may be one that vLLM has started

_KEPT = 4  # compositions whose models are kept

Failure = tuple[str, list[str]]  # the name of an exception, and its sentences


class _Sources(NamedTuple):
    """The open checkpoints, and the models that were made of them, by composition."""

    library: Library
    models: dict[str, Models]


class MergeExtension:
    """Methods that vLLM's worker class gets; none may have the name of one of its own."""

    if TYPE_CHECKING:
        device: torch.device
        distributed_init_method: str
        model_runner: Any
        vllm_config: VllmConfig

        def get_model(self) -> torch.nn.Module:
            """The live model."""

        def reload_weights(self, *, weights_iterator: Iterator[tuple[str, Tensor]]) -> None:
            """Replace the weights in place, in the layout that vLLM computes with."""

    def open_sources(self, composition: str) -> str | None:
        """Open the checkpoints of a composition, whose tensors are those of the live model.

        Args:
            composition: `Models.composition` as canonical JSON.

        Returns:
            The rendezvous file of the ranks, if there is one: a rank that is killed leaves it.
        """
        # vLLM's CPU worker replaces this function for the whole process
        torch.set_num_threads = torch._C.set_num_threads
        if self.device.type == "cpu":
            keep_freed_memory()
            _unname_shared_memory()
            _spare_generators(self.model_runner)
        self.evomerge_sources = _Sources(Library(), {})
        self.evomerge_live = self._evomerge_models(composition)
        self.evomerge_files = self._evomerge_file_arrays()
        self.evomerge_stack = _stack(self.get_model(), self.evomerge_live.layers)
        kind, _, path = self.distributed_init_method.partition("://")
        return path if kind == "file" else None

    def load_recipe(self, composition: str, recipe: str) -> Failure | None:
        """Merge into the live weights. Blocks that the recipe lacks become the identity.

        Args:
            composition, recipe: those of a plan, as canonical JSON.

        Returns:
            None, or what went wrong: exceptions do not cross processes.
        """
        stream: TensorStream | None = None
        try:
            wanted = Recipe.from_canonical_json(recipe)
            models = self._evomerge_models(composition)
            plan = make_plan(wanted, models)
            stream = TensorStream(plan, self.evomerge_live, self.device)
            weights = repacked(iter(stream), self.evomerge_files)
            if self.device.type == "cpu":
                _forget_packed_experts(self.get_model())
            with FilledParameters(self.get_model()) as filled:
                self.reload_weights(weights_iterator=weights)
            _repack_tied_head(self.get_model())
            eager = self.vllm_config.model_config.enforce_eager  # graphs have all blocks
            if eager and self.evomerge_stack is not None:
                self.evomerge_stack.end_layer = models.layers
            if stream.error is None and (empty := filled.missing()):
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
            at = f" at {stream.last}" if stream is not None and stream.last else ""
            return "RuntimeError", [f"{type(error).__name__}{at}: {error}"]
        return None

    def _evomerge_file_arrays(self) -> dict[str, Array]:
        """What vLLM is given, where that is not what the plans make: it knows names of files."""
        from evomerge.weights.architecture.empty import empty_module

        module = empty_module(Path(self.vllm_config.model_config.model))
        return {} if module is None else file_arrays(self.evomerge_live, module)

    def _evomerge_models(self, composition: str) -> Models:
        sources = self.evomerge_sources
        if composition not in sources.models:
            while len(sources.models) >= _KEPT:
                del sources.models[next(iter(sources.models))]
            recipe = Recipe.from_canonical_json(composition)
            sources.models[composition] = sources.library.models(recipe)
        return sources.models[composition]


def _stack(model: torch.nn.Module, blocks: int) -> Any:
    """The module that runs the model's stack of that many blocks, if there is exactly one.

    vLLM's models run their blocks from ``start_layer`` to ``end_layer``, for each rank of a
    pipeline its own. Where a model has no such numbers, or is a part of a pipeline, all blocks are
    computed; those that a plan lacks are zero, and so the identity.
    """
    whole = []
    for module in model.modules():
        ends = (getattr(module, "start_layer", None), getattr(module, "end_layer", None))
        stacks = [c for c in module.children() if isinstance(c, torch.nn.ModuleList)]
        if ends == (0, blocks) and any(len(stack) == blocks for stack in stacks):
            whole.append(module)
    return whole[0] if len(whole) == 1 else None


def _unname_shared_memory() -> None:
    """Let the memory that ranks on a CPU share be freed with them, even where they are killed.

    All of them have mapped it by now. vLLM removes its names only where a rank ends by itself.
    """
    own = glob.escape(os.environ.get("VLLM_DIST_IDENT", ""))
    memory = Path("/dev/shm")  # noqa: S108 - where Linux names it
    for file in memory.glob(f"{own}-*-cpushm_*") if own else ():
        file.unlink(missing_ok=True)  # another rank may have removed it


def _spare_generators(runner: Any) -> None:
    """Let a request draw from its own generator only once its prompt has been read.

    vLLM draws a token after each part of a long prompt, throws it away and turns the generator
    back, which a CPU's cannot be ("CPU Generator does not use offset").
    """
    if not hasattr(runner, "discard_request_mask"):
        return  # vLLM's newer runner keeps no generators
    sample = runner.sample_tokens

    def sample_tokens(grammar_output: Any) -> Any:
        batch = runner.input_batch
        unread = runner.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        spared = {i: batch.generators.pop(i) for i in unread if i in batch.generators}
        try:
            return sample(grammar_output)
        finally:
            batch.generators.update(spared)

    runner.sample_tokens = sample_tokens


def _repack_tied_head(model: torch.nn.Module) -> None:
    """Let a head that is tied to the embedding compute with the embedding's new values.

    On a CPU vLLM multiplies with a packed copy, which a reload renews only for an untied head.
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


def _forget_packed_experts(model: torch.nn.Module) -> None:
    """Let a reload pack experts as the first load does.

    On a CPU vLLM multiplies with packed copies, which it makes only where there is no kernel yet:
    a second load would give a kernel for packed weights those of the checkpoint.
    """
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


class FilledParameters:
    """Records which parameters a reload fills; vLLM only logs those that it does not."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model: Any = model
        self._expected = {name for name, _ in model.named_parameters()}
        self._filled: set[str] | None = set()

    def __enter__(self) -> FilledParameters:
        load = self._model.load_weights

        def recording(weights: Iterator[tuple[str, Tensor]]) -> set[str] | None:
            self._filled = load(weights)
            return self._filled

        self._model.load_weights = recording
        return self

    def __exit__(self, *_: object) -> None:
        del self._model.load_weights

    def missing(self) -> list[str]:
        """Parameters that nothing filled; none where the model does not say what it filled."""
        return [] if self._filled is None else sorted(self._expected - self._filled)
