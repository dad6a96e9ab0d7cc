"""Candidates as LoRA adapters of a base that vLLM keeps for the whole run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CandidateError, PlanError
from evomerge.weights.adapters.concatenation import (
    concatenate,
    modules_of,
    rank_of,
    source_problems,
    write_adapter,
)
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan
from evomerge.weights.virtual import VirtualCheckpoint

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's kernels are made for


def lora_arguments(models: Models) -> dict[str, Any]:
    """Arguments with which vLLM holds any weighted sum of the adapters.

    Raises:
        PlanError: sources that are no plain adapters, or whose ranks add up to too much.
    """
    problems = source_problems(models)
    if isinstance(models.base, VirtualCheckpoint):
        problems.append("base: a recipe, which vLLM cannot read. Build it, and give its folder.")
    rank = rank_of(models) if not problems else 0
    if rank > _RANKS[-1]:
        problems.append(
            f"sources: their ranks add up to {rank}, vLLM takes {_RANKS[-1]}. Drop some, or leave "
            "engine.adapters out."
        )
    if problems:
        raise PlanError(problems)
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_cpu_loras": 1,
        "max_lora_rank": next(size for size in _RANKS if size >= rank),
        # otherwise the head is wrapped too, and vLLM cannot score prompts on a CPU
        "lora_target_modules": modules_of(models) or None,
        "load_format": "auto",
    }


def link_weights(models: Models, folder: Path) -> None:
    """Link the base's weights, and their index, into a folder."""
    files = {info.file for info in models.base.tensors.values()}
    files |= {file.with_name("model.safetensors.index.json") for file in files}
    for file in sorted(files):
        if file.exists():
            (folder / file.name).symlink_to(file.absolute())


class Adapters:
    """The adapters that a running vLLM is asked with, one after another.

    Args:
        llm: started with `lora_arguments`.
        folder: where the present one is kept, until the next is loaded.
    """

    def __init__(self, llm: LLM, folder: Path) -> None:
        self._llm, self._folder = llm, folder
        self._number = 0
        self._present: LoRARequest | None = None

    def load(self, plan: Plan) -> LoRARequest | None:
        """The adapter to ask with, under an id and a name of its own; None for the plain base.

        Raises:
            CheckpointError, CandidateError: as `concatenate`, or vLLM refuses the adapter.
        """
        from vllm.lora.request import LoRARequest

        self._drop()
        factors = concatenate(plan)
        if not factors:
            return None
        self._number += 1  # vLLM keeps weights by id, and answers in its prefix cache by name
        name = f"candidate-{self._number}"
        self._present = LoRARequest(name, self._number, str(self._folder / name))
        write_adapter(factors, self._folder / name)
        try:
            self._llm.llm_engine.add_lora(self._present)
        except Exception as error:
            self._drop()
            raise CandidateError(f"vLLM refuses the adapter: {error}") from error
        return self._present

    def _drop(self) -> None:
        """Remove the present adapter, from vLLM and from the disk."""
        before, self._present = self._present, None
        if before is not None:
            self._llm.llm_engine.remove_lora(before.lora_int_id)
            shutil.rmtree(before.lora_path)
