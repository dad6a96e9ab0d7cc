"""A live Transformers model; every architecture whose checkpoint names are its module names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from evomerge.engines import Engine
from evomerge.errors import PlanError
from evomerge.weights.merge import merge
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan

if TYPE_CHECKING:
    from lm_eval.api.model import LM


class TransformersEngine(Engine):
    """`AutoModelForCausalLM`, asked through lm-eval's own ``hf`` model.

    Args:
        dtype: of the live model. ``auto`` is the base's on a GPU and float32 on a CPU, where
            bfloat16 is slower and greedy ties depend on the batch. Weights are rounded to the
            recipe's dtype first, so that the scores are those of the written checkpoint.
        device: ``auto`` takes a GPU if there is one.
        batch_size: examples answered at once.
        max_length: context in tokens; None takes it from the model's config.
        attention: an ``attn_implementation`` of Transformers.
        threads: CPU threads of this process; None leaves them alone. One is best for models of a
            few million parameters, and wherever other programs keep the cores busy.
    """

    def __init__(
        self,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        batch_size: Annotated[int, Field(ge=1)] = 64,
        max_length: Annotated[int, Field(ge=1)] | None = None,
        attention: str | None = None,
        threads: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        cuda = torch.cuda.is_available()
        self.device = ("cuda" if cuda else "cpu") if device == "auto" else device
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_length = max_length
        self.attention = attention
        self._lm: LM | None = None

    def open(self, models: Models) -> None:
        """See `Engine.open`."""
        # seconds of import each, so not at the top
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        folder = models.base.folder
        config = AutoConfig.from_pretrained(folder)
        config.tie_word_embeddings = not models.untied
        options = {} if self.attention is None else {"attn_implementation": self.attention}
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=self._dtype(models), **options)
        except ValueError as error:
            raise PlanError(f"{folder}: Transformers cannot build this model: {error}") from None
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        model.eval().requires_grad_(False).to(self.device)
        self._targets = _targets(model, models)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self.batch_size,
            max_length=self.max_length,
        )

    def load(self, plan: Plan) -> None:
        """See `Engine.load`."""
        for name, tensor in merge(plan):
            self._targets[name].copy_(tensor)

    @property
    def lm(self) -> LM:
        """See `Engine.lm`."""
        if self._lm is None:
            raise RuntimeError("the engine is not open")
        return self._lm

    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """See `Engine.lm_eval_arguments`."""
        model_args = {"dtype": str(self._dtype(models)).removeprefix("torch.")}
        if self.max_length is not None:
            model_args["max_length"] = str(self.max_length)
        if self.attention is not None:
            model_args["attn_implementation"] = self.attention
        return {
            "model": "hf",
            "model_args": model_args,
            "batch_size": self.batch_size,
            "device": self.device,
        }

    def _dtype(self, models: Models) -> torch.dtype:
        name = self.dtype
        if name == "auto":
            name = "float32" if self.device == "cpu" else models.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def close(self) -> None:
        """See `Engine.close`."""
        self._lm = None
        self._targets = {}


def _targets(model: torch.nn.Module, models: Models) -> dict[str, torch.Tensor]:
    """The live tensor behind every name of the plan.

    Raises:
        PlanError: names that the model does not have, or parts of it that no name fills.
    """
    live = model.state_dict()
    wanted = [slot.name for slot in models.slots]
    unknown = [name for name in wanted if name not in live]
    if unknown:
        raise PlanError(
            f"{models.base.folder}: {len(unknown)} tensors, {unknown[0]} first, are not parts of "
            f"{type(model).__name__}. The transformers engine loads only checkpoints whose names "
            "are the module names."
        )
    filled = {live[name].data_ptr() for name in wanted}
    empty = [name for name, tensor in live.items() if tensor.data_ptr() not in filled]
    if empty:
        raise PlanError(
            f"{models.base.folder}: the checkpoint lacks {len(empty)} tensors of "
            f"{type(model).__name__}, {empty[0]} first."
        )
    return {name: live[name] for name in wanted}
