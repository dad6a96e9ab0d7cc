"""A live Transformers model, of any architecture, filled as Transformers fills it from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from evomerge.engines import LanguageModelEngine, LmEvalOptions, words
from evomerge.engines._architecture import (
    empty_model,
    fill,
    generation_config,
    open_tokenizer,
    require_config,
    require_fit,
)
from evomerge.engines._devices import present, release, torch_device
from evomerge.engines._process import use_threads
from evomerge.errors import ConfigError, Problem
from evomerge.keys import Count, Threads
from evomerge.weights.output.metadata import write_metadata

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from evomerge.engines._packing import Packed
    from evomerge.engines._stacks import Stacks
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan


class TransformersEngine(LanguageModelEngine):
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
            few million parameters, and where other programs keep the cores busy.
        lm_eval: see `LmEvalOptions`; all but ``max_gen_toks``, which lm-eval's ``hf`` lacks.

    Raises:
        ConfigError: a device that torch does not know, or that is not there.
    """

    def __init__(
        self,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        batch_size: Count = 64,
        max_length: Count | None = None,
        attention: str | None = None,
        threads: Threads | None = None,
        lm_eval: LmEvalOptions = LmEvalOptions(),  # noqa: B008 - frozen
    ) -> None:
        if lm_eval.max_gen_toks is not None:
            path, text = (
                ("engine", "lm_eval", "max_gen_toks"),
                "the transformers engine has no such setting.",
            )
            raise ConfigError(Problem(path, text, "Use gen_kwargs: {max_gen_toks: ...}."))
        self.device = device
        self._device = present(device)
        self.lm_eval = lm_eval
        self.dtype = dtype
        self.batch_size = batch_size
        self.max_length = max_length
        self.attention = attention
        self.threads = threads
        self._plain: Any = None
        self._targets: dict[str, torch.Tensor | Packed] = {}
        self._stacks: Stacks | None = None
        self._models: Models | None = None

    def open(self, models: Models) -> None:
        """See `Engine.open`.

        Opened with slices, the engine expects stacks: it takes no memory before the first.
        """
        from evomerge.engines._hf_lm import live_lm

        use_threads(self.threads)
        with TemporaryDirectory(prefix="evomerge-") as name:
            folder = Path(name)
            write_metadata(models, folder, models.dtype)
            self._generation = generation_config(models, folder)
            if models.origins is None:
                model = self._open_plain(models, folder)
            else:
                model = self._open_stacks(models).model
            tokenizer = open_tokenizer(models, folder)
        self._models = models
        lm: Any = live_lm(
            model,
            tokenizer=tokenizer,
            batch_size=self.batch_size,
            max_length=self.max_length,
            **self.lm_eval.model_args(),
        )
        lm._device = torch_device(self._device)  # a model without weights has none
        self._lm = lm

    def _open_plain(self, models: Models, folder: Path) -> Any:
        """The model whose weights are merged in place."""
        from evomerge.engines._packing import live_arrays, targets

        device, dtype = torch_device(self._device), self._dtype(models)
        model = empty_model(models, folder, dtype, device, **self._options())
        live, arrays = model.state_dict(), live_arrays(models, model)
        wanted = {name: array.shape for name, array in arrays.items()}
        require_fit(models, type(model).__name__, live, wanted)
        self._targets = targets(arrays, live)
        if self._generation is not None:
            model.generation_config = self._generation
        self._plain = model
        return model

    def _open_stacks(self, models: Models) -> Stacks:
        from evomerge.engines._stacks import Stacks

        device, dtype = torch_device(self._device), self._dtype(models)
        self._stacks = Stacks(models, dtype, device, self._generation, **self._options())
        return self._stacks

    def _options(self) -> dict[str, Any]:
        return {} if self.attention is None else {"attn_implementation": self.attention}

    def try_open(self, models: Models) -> None:
        """See `Engine.try_open`."""
        import torch

        from evomerge.engines._packing import live_arrays

        with TemporaryDirectory(prefix="evomerge-") as name:
            folder = Path(name)
            write_metadata(models, folder, models.dtype)
            generation_config(models, folder)
            meta = torch.device("meta")
            model = empty_model(models, folder, torch.float32, meta, **self._options())
            wanted = {name: array.shape for name, array in live_arrays(models, model).items()}
            require_fit(models, type(model).__name__, model.state_dict(), wanted)
            open_tokenizer(models, folder)

    def validate(self, plan: Plan) -> None:
        """See `Engine.validate`: Transformers must be able to build the model."""
        require_config(plan.models)
        if plan.recipe.slices:
            import torch

            from evomerge.engines._stacks import ModelShell

            # without weights the device does not matter
            ModelShell(plan.models, torch.float32, torch.device("cpu"), **self._options())

    def load(self, plan: Plan) -> None:
        """See `Engine.load`.

        A plan may stack other blocks, and another number of them, than the engine was opened with.
        """
        lm: Any = self.lm
        assert self._models is not None
        if plan.recipe.slices or self._plain is None:
            model = (self._stacks or self._open_stacks(self._models)).load(plan)
        else:
            model = self._plain
            fill(self._targets, plan, torch_device(self._device))
        lm._model, lm._config = model, model.config

    @property
    def module(self) -> Module:
        """See `Engine.module`."""
        lm: Any = self.lm  # lm-eval's own
        module: Module = lm.model
        return module

    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """See `LanguageModelEngine.lm_eval_arguments`."""
        model_args = {
            "dtype": self.weights_dtype(models.dtype),
            "max_length": self.max_length,
            "attn_implementation": self.attention,
            **self.lm_eval.model_args(),
        }
        return {
            "model": "hf",
            "model_args": words(model_args),
            "batch_size": self.batch_size,
            "device": self._device,
        }

    def _dtype(self, models: Models) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.weights_dtype(models.dtype))
        return dtype

    def close(self) -> None:
        """See `Engine.close`."""
        self._lm = self._plain = self._stacks = self._models = None
        self._targets = {}
        release(self._device)
