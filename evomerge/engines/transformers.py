"""A live Transformers model; every architecture whose checkpoint names are its module names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field

from evomerge.engines import Engine
from evomerge.errors import ConfigError, PlanError
from evomerge.weights.merge import Out, merge_into
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan, Step
from evomerge.weights.skeleton import write_skeleton

if TYPE_CHECKING:
    from lm_eval.api.model import LM


class TransformersEngine(Engine):
    """`AutoModelForCausalLM`, asked through lm-eval's own ``hf`` model.

    Args:
        dtype: of the live model. ``auto`` is the base's on a GPU and float32 on a CPU, where
            bfloat16 is slower and greedy ties depend on the batch. Weights are rounded to the
            recipe's dtype first, so that the scores are those of the written checkpoint.
        device: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU if there is one.
        batch_size: examples answered at once.
        max_length: context in tokens; None takes it from the model's config.
        attention: an ``attn_implementation`` of Transformers.
        threads: CPU threads of this process; None leaves them alone. One is best for models of a
            few million parameters, and wherever other programs keep the cores busy.

    Raises:
        ConfigError: a device that torch does not know, or that is not there.
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
        self.device = _present(device)
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_length = max_length
        self.attention = attention
        self.threads = threads
        self._lm: LM | None = None
        self._targets: dict[str, torch.Tensor] = {}

    def open(self, models: Models) -> None:
        """See `Engine.open`."""
        # seconds of import each, so not at the top
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer, GenerationConfig

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with TemporaryDirectory(prefix="evomerge-") as name:
            folder = Path(name)
            write_skeleton(models, folder, models.dtype)
            model = self._empty_model(models, folder)
            self._targets = _targets(model, models)
            if (folder / "generation_config.json").exists():
                model.generation_config = GenerationConfig.from_pretrained(folder)
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            except (ValueError, OSError) as error:
                raise PlanError(
                    f"{models.base.folder}: Transformers cannot open its tokenizer: {error}"
                ) from None
        self._lm = HFLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=self.batch_size,
            max_length=self.max_length,
        )

    def _empty_model(self, models: Models, folder: Path) -> Any:
        """The merged architecture on the device, its weights whatever was in memory.

        Args:
            folder: holds the merged config.
        """
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.initialization import no_init_weights

        options = {} if self.attention is None else {"attn_implementation": self.attention}
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            config.get_text_config().tie_word_embeddings = not models.untied
            # every weight is filled by a plan: drawing random ones first takes minutes at 7B
            with torch.device(self.device), no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    config, dtype=self._dtype(models), trust_remote_code=False, **options
                )
        except (ValueError, ImportError) as error:
            raise PlanError(
                f"{models.base.folder}: Transformers cannot build this model: {error}"
            ) from None
        model.tie_weights()
        return model.eval().requires_grad_(False)

    def load(self, plan: Plan) -> None:
        """See `Engine.load`."""
        planned = {step.slot.name for step in plan.steps}
        if planned != self._targets.keys():
            stray = sorted(planned ^ self._targets.keys())
            raise PlanError(
                f"the plan and the open models differ in {len(stray)} tensors, {stray[0]} first. "
                "Plan the recipe for the models that the engine was opened with."
            )
        merge_into(plan, self._into, torch.device(self.device))

    def _into(self, step: Step) -> Out:
        """Puts stretches of a tensor in their place."""
        target = self._targets[step.slot.name].view(-1)

        def out(start: int, values: torch.Tensor) -> None:
            target[start : start + values.numel()].copy_(values)

        return out

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
            name = "float32" if torch.device(self.device).type == "cpu" else models.dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def close(self) -> None:
        """See `Engine.close`."""
        self._lm = None
        self._targets = {}
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()


def _present(device: str) -> str:
    """The device that is meant, which this machine has."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
        module = torch.get_device_module(wanted)
    except RuntimeError:
        raise ConfigError(
            f"engine.device: torch has no device {device!r}. Use cpu, cuda or auto."
        ) from None
    # a driver may count GPUs that it cannot start
    dead = wanted.type == "cuda" and not torch.cuda.is_available()
    if dead or (wanted.index or 0) >= module.device_count():
        raise ConfigError(f"engine.device: {device!r} is not available here. Use cpu or auto.")
    return device


def _targets(model: torch.nn.Module, models: Models) -> dict[str, torch.Tensor]:
    """The live tensor behind every name of the plan.

    Raises:
        PlanError: names that the model does not have, or parts of it that no name fills.
    """
    live: dict[str, torch.Tensor] = model.state_dict()
    folder, kind = models.base.folder, type(model).__name__
    wanted = {slot.name: slot.shape for slot in models.slots}
    unknown = [name for name in wanted if name not in live]
    if unknown:
        raise PlanError(
            f"{folder}: {len(unknown)} tensors, {unknown[0]} first, are not parts of {kind}. "
            "The transformers engine loads only checkpoints whose names are the module names."
        )
    problems = [
        f"{folder}: {name} is {shape}, but {tuple(live[name].shape)} by its config.json. "
        "Repair the config."
        for name, shape in wanted.items()
        if live[name].shape != shape
    ]
    filled = {live[name].data_ptr() for name in wanted}
    empty = [name for name, tensor in live.items() if tensor.data_ptr() not in filled]
    if empty:
        problems.append(
            f"{folder}: the checkpoint lacks {len(empty)} tensors of {kind}, {empty[0]} first."
        )
    if problems:
        raise PlanError(problems)
    return {name: live[name] for name in wanted}
