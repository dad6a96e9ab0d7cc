"""A live vLLM whose workers merge straight into its weights."""

from __future__ import annotations

import gc
import socket
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from evomerge import errors
from evomerge.engines import LanguageModelEngine, LmEvalOptions, words
from evomerge.engines._architecture import (
    empty_model,
    generation_config,
    has_the_blocks,
    open_tokenizer,
    require_config,
    require_fit,
    require_same_architecture,
)
from evomerge.engines._devices import has_gpu, release
from evomerge.engines._process import give_back, use_threads
from evomerge.engines._vllm_start import known_arguments, require_vllm, start, stop, without_locals
from evomerge.errors import CheckpointError, ConfigError, PlanError, SearchError
from evomerge.keys import AtOnce, Count, Plain, Threads
from evomerge.weights.output.metadata import write_metadata

if TYPE_CHECKING:
    from vllm import LLM

    from evomerge.engines._vllm_lora import Adapters
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan

_CPU_CACHE_BYTES = 1 << 30  # of keys and values; vLLM would take most of the machine's memory


class VllmEngine(LanguageModelEngine):
    """One vLLM for all candidates, asked through lm-eval's own ``vllm`` model.

    Args:
        dtype: of the live model. ``auto`` is the base's on a GPU and float32 on a CPU. Weights are
            rounded to the recipe's dtype first, so that the scores are those of the checkpoint.
        tensor_parallel_size: GPUs (on a CPU: processes) that one model is spread over.
        gpu_memory_utilization: fraction of the memory that vLLM may use, in (0, 1]; None leaves it
            to vLLM, and on a CPU gives keys and values 1 GiB.
        max_length: context in tokens; None takes it from the model's config.
        batch_size: sequences computed at once; None leaves it to vLLM.
        seed: of sampled answers.
        threads: CPU threads of this process; None leaves them alone.
        adapters: ``merged`` into the weights, or given to vLLM as one ``lora`` on a base that stays
            as it is; then every candidate must be a weighted sum of plain adapters.
        enforce_eager: without compiled graphs; a start then takes seconds, not minutes.
        vllm: further engine arguments of vLLM, by their own names.
        lm_eval: see `LmEvalOptions`.

    Raises:
        ConfigError: vLLM is not installed.
    """

    has_module = False
    spans_nodes = True

    def __init__(
        self,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        tensor_parallel_size: AtOnce = 1,
        gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None,
        max_length: Count | None = None,
        batch_size: AtOnce | None = None,
        seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0,
        threads: Threads | None = None,
        adapters: Literal["merged", "lora"] = "merged",
        enforce_eager: bool = True,
        vllm: Annotated[Plain, AfterValidator(known_arguments)] | None = None,
        lm_eval: LmEvalOptions = LmEvalOptions(),  # noqa: B008 - frozen
    ) -> None:
        require_vllm()
        self.dtype = dtype
        self.max_length = max_length
        self.seed = seed
        self.threads = threads
        self.lm_eval = lm_eval
        self.adapters = adapters
        self.ranks = tensor_parallel_size * int((vllm or {}).get("pipeline_parallel_size") or 1)
        self._lora: Adapters | None = None
        self._set_arguments = {
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": batch_size,
            "enforce_eager": enforce_eager,
            **(vllm or {}),
        }
        self._llm: LLM | None = None
        self._models: Models | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._rendezvous_file: str | None = None  # of the ranks
        self._broken = False

    def open(self, models: Models) -> None:
        """See `Engine.open`."""
        use_threads(self.threads)
        self._folder = TemporaryDirectory(prefix="evomerge-")
        try:
            self._open(models, Path(self._folder.name))
        except BaseException:
            self.close()
            raise

    def _open(self, models: Models, folder: Path) -> None:
        """Start vLLM on a folder with everything but the weights."""
        from evomerge.engines._vllm_lm import live_lm
        from evomerge.engines._vllm_lora import Adapters, link_weights, lora_arguments

        arguments = self._arguments(models) | {"model": str(folder)}
        if self.adapters == "lora":
            arguments |= lora_arguments(models)
        write_metadata(models, folder, models.dtype)
        _require_filled(models, folder)
        if self.adapters == "lora":
            link_weights(models, folder)
        try:
            self._llm = start(arguments)
        except (ValueError, NotImplementedError) as error:
            raise PlanError(
                f"{models.base.folder}: vLLM cannot start this model: {error}"
            ) from error
        composition = models.composition.canonical_json()
        self._rendezvous_file = self._llm.collective_rpc("open_sources", args=(composition,))[0]
        options = self.lm_eval.model_args()
        self._lm = live_lm(self._llm, folder, self._break, **options)
        self._models, self._broken = models, False
        self._lora = Adapters(self._llm, folder) if self.adapters == "lora" else None

    def try_open(self, models: Models) -> None:
        """See `Engine.try_open`."""
        with TemporaryDirectory(prefix="evomerge-") as name:
            write_metadata(models, Path(name), models.dtype)
            generation_config(models, Path(name))
            _require_filled(models, Path(name))

    def validate(self, plan: Plan) -> None:
        """See `Engine.validate`."""
        require_config(plan.models)
        if self.adapters == "lora":
            from evomerge.weights.adapters.concatenation import plan_problems

            if problems := plan_problems(plan):
                raise PlanError(problems)

    def load(self, plan: Plan) -> None:
        """See `Engine.load`.

        A plan may stack other blocks, and fewer of them, than the models that the engine was opened
        with. vLLM is restarted for a deeper plan, and for one whose kinds of blocks follow each
        other in another order.

        Raises:
            SearchError: vLLM has to start again and cannot, with models that it did start with.
        """
        if self._models is None:
            raise RuntimeError("the engine is not open")
        self.validate(plan)
        fits = has_the_blocks(plan, self._models)
        # from the prefix cache long prompts would get the last candidate's answers; vLLM keeps all
        # of it while it has a request left over
        if not fits or self._broken or self._llm is None or not self._llm.reset_prefix_cache():
            self._restart(self._models, self._models if fits else plan.models)
        assert self._llm is not None
        require_same_architecture(plan, self._models)
        if self._lora is not None:
            lm: Any = self._lm  # lm-eval's own, which gives this to every request
            lm.lora_request = self._lora.load(plan)
            return
        arguments = (plan.models.composition.canonical_json(), plan.recipe.canonical_json())
        self._broken = True  # unless the reload ends
        failures = self._llm.collective_rpc("load_recipe", args=arguments)
        failed = next((failure for failure in failures if failure is not None), None)
        self._broken = failed is not None and failed[0] == "RuntimeError"
        if failed is not None:
            raise _exception(*failed)

    def _restart(self, before: Models, models: Models) -> None:
        """Restart vLLM with other models, or where that fails, with the previous ones.

        Raises:
            Exception: what keeps it from starting with these models.
            SearchError: vLLM does not start with the models before either: the machine is at fault.
        """
        error = self._reopen(before, models)
        if error is None:
            return
        again = error if models is before else self._reopen(before, before)
        if again is None:
            raise error
        if isinstance(again, CheckpointError | ConfigError):
            raise again
        raise SearchError(
            f"{before.base.folder}: vLLM started with this model before and cannot start again on "
            f"{socket.gethostname()}: {type(again).__name__}: {str(again).rstrip('.')}. "
            "See what else holds its memory or devices, then resume the run."
        ) from again

    def _reopen(self, before: Models, models: Models) -> Exception | None:
        """Restart vLLM with other models.

        Returns:
            What keeps it from starting; then the next load starts it with the models before.
        """
        self.close()
        try:
            self.open(models)
        except Exception as error:
            error = without_locals(error)
            gc.collect()
            return error
        finally:
            if self._models is None:
                self._models, self._broken = before, True
        return None

    def _break(self) -> None:
        """Note that vLLM must be restarted before the next candidate."""
        self._broken = True

    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """See `LanguageModelEngine.lm_eval_arguments`."""
        return {
            "model": "vllm",
            "model_args": words({**self._arguments(models), **self.lm_eval.model_args()}),
            "batch_size": "auto",
            "device": "cuda" if has_gpu() else "cpu",
        }

    def _arguments(self, models: Models) -> dict[str, Any]:
        """Arguments that vLLM is started with, besides those of the model's folder."""
        dtype = self.weights_dtype(models.dtype)
        arguments = {
            **self._set_arguments,
            **{"dtype": dtype, "seed": self.seed, "max_model_len": self.max_length},
        }
        arguments = {name: value for name, value in arguments.items() if value is not None}
        if not has_gpu() and "gpu_memory_utilization" not in arguments:
            arguments = {"kv_cache_memory_bytes": _CPU_CACHE_BYTES} | arguments
        return arguments

    def close(self) -> None:
        """See `Engine.close`."""
        llm, self._llm, self._lm, self._models = self._llm, None, None, None
        self._lora = None
        if llm is not None:
            stop(llm)
        if self._rendezvous_file is not None:
            Path(self._rendezvous_file).unlink(missing_ok=True)
        if self._folder is not None:
            self._folder.cleanup()
        if llm is None:
            return
        del llm
        gc.collect()  # vLLM's objects refer to each other in circles
        give_back()
        if has_gpu():
            release("cuda")


def _require_filled(models: Models, folder: Path) -> None:
    """Raise for checkpoints that do not fill the model of their config.

    Where Transformers renames tensors on loading, as those of experts, this is left to vLLM.
    """
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from evomerge.engines._packing import live_arrays

    open_tokenizer(models, folder)
    if get_checkpoint_conversion_mapping(str(models.base.config.get("model_type"))) is None:
        model = empty_model(models, folder, torch.float32, torch.device("meta"))
        wanted = {n: array.shape for n, array in live_arrays(models, model).items()}
        require_fit(models, type(model).__name__, model.state_dict(), wanted)


def _exception(kind: str, problems: list[str]) -> Exception:
    """The exception that a worker reported, where it is one of ours, else a RuntimeError."""
    error = getattr(errors, kind, RuntimeError)
    return error(problems) if issubclass(error, errors.InputError) else error("; ".join(problems))
