"""Starting and stopping vLLM: its environment, its arguments, and whether it is installed."""

from __future__ import annotations

import gc
import os
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

from evomerge.engines._process import kept_generators
from evomerge.errors import ConfigError, Problem
from evomerge.plugins.registry import did_you_mean

if TYPE_CHECKING:
    from vllm import LLM

EXTENSION = "evomerge.engines._vllm_worker.MergeExtension"
# Arguments that the engine sets itself, and the key to set in their place, if there is one.
OWN = {
    **{"model": "the search's base", "tokenizer": "the search's tokenizer"},
    **{"load_format": None, "worker_extension_cls": None, "trust_remote_code": None},
    **{"dtype": "engine.dtype", "seed": "engine.seed", "max_model_len": "engine.max_length"},
    **{"max_num_seqs": "engine.batch_size", "enforce_eager": "engine.enforce_eager"},
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    **{"enable_lora": "engine.adapters", "max_lora_rank": None, "max_loras": None},
    **{"max_cpu_loras": None, "lora_target_modules": None},
}
# Where the user has not set them.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a killed worker leaves no process behind
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or all workers of a machine share the same cores
}
# which a process reads once, when it imports torch's compiler
_UNCOMPILED = "TORCH_COMPILE_DISABLE"
_SOCKETS = "VLLM_RPC_BASE_PATH"
_SOCKET_BYTES = 107  # of a path, at most; vLLM gives each socket a name of 36
_running: list[LLM] = []
_stopped: list[LLM] = []  # end with the last that runs
_no_collection = threading.Lock()  # held while `gc.collect` does nothing


def require_vllm() -> None:
    """Raise unless vLLM is installed.

    Raises:
        ConfigError: it is not; says how to get it.
    """
    if find_spec("vllm") is None:
        cure = (
            "On a GPU: pip install 'evomerge[vllm]'; "
            "on a CPU see docs/engines.md, or use the engine transformers."
        )
        raise ConfigError(Problem(("engine",), "vllm is not installed.", cure))


def known_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The options, if vLLM's `EngineArgs` has each of them and the engine sets none itself.

    The first call imports vLLM, which takes seconds. Without keys nothing is imported, and without
    vLLM nothing is checked (see `require_vllm`).

    Raises:
        ValidationError: a sentence for each that is wrong.
    """
    if not options or find_spec("vllm") is None:
        return options
    with quiet():
        from vllm.engine.arg_utils import EngineArgs

    known = [field.name for field in fields(EngineArgs) if field.name not in OWN]
    wrong = [
        InitErrorDetails(
            type="value_error", loc=(name,), input=value, ctx={"error": ValueError(text)}
        )
        for name, value in options.items()
        if (text := _problem(name, known))
    ]
    if wrong:
        raise ValidationError.from_exception_data("vllm", wrong)
    return options


def _problem(name: str, known: Sequence[str]) -> str:
    """What is wrong with an argument, or an empty text."""
    if name in OWN:
        cure = f"Set {OWN[name]}." if OWN[name] else "Remove it."
        return f"the engine sets this itself. {cure}"
    if name in known:
        return ""
    near = did_you_mean(name, known)
    near = near if near.startswith(" Did") else " See vLLM's engine arguments."
    return f"vLLM has no such argument.{near}"


def start(arguments: Mapping[str, Any]) -> LLM:
    """A running vLLM that merges in its workers. The random generators here stay as they were.

    Args:
        arguments: of vLLM; ``model`` is a temporary folder of this vLLM alone.
    """
    with quiet():
        from vllm import LLM

        repair_llvmlite()
        gc.collect()
        gc.freeze()  # what is left is no garbage, and vLLM would look through it five times
        # weights come later, unless the arguments say otherwise
        options = {"load_format": "dummy", **arguments, "worker_extension_cls": EXTENSION}
        compiled = not arguments["enforce_eager"]
        try:
            with kept_generators(), compiling(compiled), _sockets_in(arguments["model"]):
                llm = LLM(**options)
        except BaseException:
            gc.unfreeze()  # as vLLM does when it ends
            raise
    _running.append(llm)
    return llm


def repair_llvmlite() -> None:
    """Let vLLM start in a process that has loaded numba.

    vLLM reads the ``__dict__`` of every object of every module, and the library behind numba
    answers every name with a function, ``__dict__`` too.
    """
    from llvmlite.binding import ffi

    kind: Any = type(ffi.lib)
    function = kind.__getattr__
    if function.__name__ == "of_the_library":
        return  # done before

    def of_the_library(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return function(self, name)

    kind.__getattr__ = of_the_library


def stop(llm: LLM) -> None:
    """Shut down a vLLM, once no other one runs in this process; then its memory can be freed.

    Not before: a shutdown destroys the process groups of every vLLM in the process.
    """
    _running.remove(llm)
    _stopped.append(llm)
    if not _running:
        with _without_collection():
            for one in _stopped:
                one.llm_engine.engine_core.shutdown()
        _stopped.clear()


def without_locals(error: Exception) -> Exception:
    """The error, with a traceback that no longer holds the memory of a vLLM that did not start."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__
    return error


@contextmanager
def _without_collection() -> Iterator[None]:
    """Make `gc.collect` do nothing: each shutdown calls it twice, half a second each time."""
    with _no_collection:
        collect = gc.collect
        gc.collect = lambda *_, **__: 0
        try:
            yield
        finally:
            gc.collect = collect


@contextmanager
def _sockets_in(folder: str) -> Iterator[None]:
    """Put the sockets between ranks into a folder: vLLM does not remove them."""
    if _SOCKETS in os.environ or len(os.fsencode(folder)) + 37 > _SOCKET_BYTES:
        yield
        return
    from vllm import envs

    envs.disable_envs_cache()  # of a vLLM that was started before
    os.environ[_SOCKETS] = folder
    try:
        yield
    finally:
        del os.environ[_SOCKETS]


@contextmanager
def compiling(wanted: bool) -> Iterator[None]:
    """Let torch compile only where that is wanted, in this process and in those started meanwhile.

    Even without compiled graphs vLLM's sampler asks for compiled code, which takes seconds for the
    first log-probability. Other engines of the process may still compile theirs.
    """
    import torch

    if wanted:
        yield
        return
    before = os.environ.get(_UNCOMPILED)
    with torch._dynamo.config.patch(disable=True):
        os.environ[_UNCOMPILED] = "1"
        try:
            yield
        finally:
            os.environ.pop(_UNCOMPILED)
            if before is not None:
                os.environ[_UNCOMPILED] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Set the environment that vLLM reads, and keep its own warnings from the user."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
