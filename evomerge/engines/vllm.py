"""A live vLLM whose workers merge straight into its weights."""

from __future__ import annotations

import gc
import json
import socket
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from evomerge import errors
from evomerge.engines import LanguageModelEngine, LmEvalOptions
from evomerge.engines._architecture import empty_model, open_tokenizer, require_config, require_fit
from evomerge.engines._depth import has_the_blocks, require_same_architecture
from evomerge.engines._devices import has_gpu, release
from evomerge.engines._heap import give_back
from evomerge.engines._vllm_start import known_arguments, require_vllm, start, stop
from evomerge.errors import CheckpointError, ConfigError, PlanError, SearchError
from evomerge.weights.metadata import write_metadata

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from vllm import LLM

    from evomerge.engines._vllm_lora import Adapters
    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan

_CPU_CACHE_BYTES = 1 << 30  # of keys and values; vLLM would take most of the machine's memory


class VllmEngine(LanguageModelEngine):
    """One vLLM for the whole run, asked through lm-eval's own ``vllm`` model.

    Args:
        dtype: of the live model. ``auto`` is the base's on a GPU and float32 on a CPU. Weights are
            rounded to the recipe's dtype first, so that the scores are those of the checkpoint.
        tensor_parallel_size: GPUs (or CPU processes) that one model is spread over.
        gpu_memory_utilization: fraction of the memory that vLLM may use, in (0, 1]; None leaves it
            to vLLM, and on a CPU gives keys and values 1 GiB.
        max_length: context in tokens; None takes it from the model's config.
        batch_size: sequences computed at once; None leaves it to vLLM.
        seed: of sampled answers.
        threads: CPU threads of this process; None leaves them alone.
        adapters: ``merged`` into the weights, or given to vLLM as one ``lora`` on a base that stays
            as it is; then every candidate must be a weighted sum of plain adapters.
        enforce_eager: without compiled graphs. A start takes seconds in place of minutes.
        vllm: further engine arguments of vLLM, by their own names.
        lm_eval: see `LmEvalOptions`.

    Raises:
        ConfigError: vLLM is not installed.
    """

    spans_nodes = True

    def __init__(
        self,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        tensor_parallel_size: Annotated[int, Field(ge=1)] = 1,
        gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None,
        max_length: Annotated[int, Field(ge=1)] | None = None,
        batch_size: Annotated[int, Field(ge=1)] | None = None,
        seed: Annotated[int, Field(ge=0)] = 0,
        threads: Annotated[int, Field(ge=1)] | None = None,
        adapters: Literal["merged", "lora"] = "merged",
        enforce_eager: bool = True,
        vllm: Annotated[dict[str, Any], AfterValidator(known_arguments)] | None = None,
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
        self._given = {
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "max_num_seqs": batch_size,
            "enforce_eager": enforce_eager,
            **(vllm or {}),
        }
        self._llm: LLM | None = None
        self._lm: LM | None = None
        self._models: Models | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._met: str | None = None  # the file through which ranks found each other
        self._broken = False

    def open(self, models: Models) -> None:
        """See `Engine.open`."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        self._folder = TemporaryDirectory(prefix="evomerge-")
        try:
            self._open(models, Path(self._folder.name))
        except BaseException:
            self.close()
            raise

    def _open(self, models: Models, folder: Path) -> None:
        """Start vLLM on a folder with all but the weights."""
        from evomerge.engines._vllm_lm import live_lm
        from evomerge.engines._vllm_lora import Adapters, link_weights, lora_arguments

        arguments = self._arguments(models) | {"model": str(folder)}
        if self.adapters == "lora":
            arguments |= lora_arguments(models)
        write_metadata(models, folder, models.dtype)
        _require_known(models, folder)
        if self.adapters == "lora":
            link_weights(models, folder)
        try:
            self._llm = start(arguments)
        except (ValueError, NotImplementedError) as error:
            raise PlanError(
                f"{models.base.folder}: vLLM cannot start this model: {error}"
            ) from error
        composition = models.composition.canonical_json()
        self._met = self._llm.collective_rpc("open_sources", args=(composition,))[0]
        options = self.lm_eval.model_args()
        self._lm = live_lm(self._llm, folder, self.seed, self._break, **options)
        self._models, self._broken = models, False
        self._lora = Adapters(self._llm, folder) if self.adapters == "lora" else None

    def validate(self, plan: Plan) -> None:
        """See `Engine.validate`."""
        require_config(plan.models)
        if self.adapters == "lora":
            from evomerge.engines._vllm_lora import require_sum

            require_sum(plan)

    def load(self, plan: Plan) -> None:
        """See `Engine.load`.

        A plan may stack other blocks, and fewer of them, than the models that the engine was opened
        with. For a deeper one vLLM is started anew, and where blocks of other kinds follow each
        other.

        Raises:
            SearchError: vLLM has to start again and cannot, with models that it did start with.
        """
        if self._models is None:
            raise RuntimeError("the engine is not open")
        self.validate(plan)
        held = has_the_blocks(plan, self._models)
        if self._broken or not held or not self._forgets():
            self._restart(self._models, self._models if held else plan.models)
        assert self._llm is not None
        require_same_architecture(plan, self._models)
        if self._lora is not None:
            lm: Any = self._lm  # lm-eval's own, which gives this to every request
            lm.lora_request = self._lora.load(plan)
            return
        arguments = (plan.models.composition.canonical_json(), plan.recipe.canonical_json())
        self._broken = True  # until the opposite is known
        failures = self._llm.collective_rpc("load_recipe", args=arguments)
        failed = next((failure for failure in failures if failure is not None), None)
        self._broken = failed is not None and failed[0] == "RuntimeError"
        if failed is not None:
            raise _exception(*failed)

    def _forgets(self) -> bool:
        """Empty the prefix cache, or a prompt of a block and longer gets the last one's answers.

        Whether it did: vLLM keeps the blocks of all while a request that it was left with has some.
        """
        assert self._llm is not None
        return bool(self._llm.reset_prefix_cache())

    def _restart(self, before: Models, models: Models) -> None:
        """Start vLLM anew; where that fails, with the models before, or the machine is at fault.

        Raises:
            SearchError: vLLM does not start with the models before either, with which it did.
        """
        failed = self._reopen(before, models)
        machine = failed if failed is None or models is before else self._reopen(before, before)
        if isinstance(machine, CheckpointError | ConfigError):
            raise machine
        if machine is not None:
            raise SearchError(
                f"{before.base.folder}: vLLM started with this model before and cannot start "
                f"again on {socket.gethostname()}: {type(machine).__name__}: "
                f"{str(machine).rstrip('.')}. "
                "See what else holds its memory or devices, then resume the run."
            ) from machine
        if failed is not None:
            raise failed

    def _reopen(self, before: Models, models: Models) -> Exception | None:
        """Start vLLM anew; what went wrong, after which the next load tries with those before."""
        self.close()
        try:
            self.open(models)
        except Exception as error:
            error = _without_locals(error)
            gc.collect()
            return error
        finally:
            if self._models is None:
                self._models, self._broken = before, True
        return None

    def _break(self) -> None:
        """Start vLLM anew before the next candidate."""
        self._broken = True

    @property
    def lm(self) -> LM:
        """See `LanguageModelEngine.lm`."""
        if self._lm is None:
            raise RuntimeError("the engine is not open")
        return self._lm

    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """See `LanguageModelEngine.lm_eval_arguments`."""
        model_args = {**self._arguments(models), **self.lm_eval.model_args()}
        return {
            "model": "vllm",
            "model_args": {
                name: json.dumps(value) if isinstance(value, dict | list) else str(value)
                for name, value in model_args.items()
            },
            "batch_size": "auto",
            "device": "cpu" if _on_cpu() else "cuda",
        }

    def _arguments(self, models: Models) -> dict[str, Any]:
        """What vLLM is started with, as far as the model's folder does not say it."""
        dtype = self.weights_dtype(models.dtype)
        given = self._given | {"dtype": dtype, "seed": self.seed, "max_model_len": self.max_length}
        found = {name: value for name, value in given.items() if value is not None}
        if _on_cpu() and "gpu_memory_utilization" not in found:
            found = {"kv_cache_memory_bytes": _CPU_CACHE_BYTES} | found
        return found

    def close(self) -> None:
        """See `Engine.close`."""
        llm, self._llm, self._lm, self._models = self._llm, None, None, None
        self._lora = None
        if llm is not None:
            stop(llm)
        if self._met is not None:
            Path(self._met).unlink(missing_ok=True)
        if self._folder is not None:
            self._folder.cleanup()
        if llm is None:
            return
        del llm
        gc.collect()  # vLLM's objects know each other in circles
        give_back()
        if has_gpu():
            release("cuda")


def _on_cpu() -> bool:
    return not has_gpu()


def _require_known(models: Models, folder: Path) -> None:
    """Raise for checkpoints that do not fill the model of their config.

    Where Transformers renames tensors when it loads them, as those of experts, vLLM alone decides.
    """
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    open_tokenizer(models, folder)
    if get_checkpoint_conversion_mapping(str(models.base.config.get("model_type"))) is None:
        model = empty_model(models, folder, torch.float32, torch.device("meta"))
        require_fit(models, type(model).__name__, model.state_dict())


def _without_locals(error: Exception) -> Exception:
    """The error, whose traceback no longer keeps the memory of a vLLM that did not start."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


def _exception(kind: str, problems: list[str]) -> Exception:
    """What a worker raised, of our own kinds."""
    found = getattr(errors, kind, RuntimeError)
    return found(problems) if issubclass(found, errors.InputError) else found("; ".join(problems))
