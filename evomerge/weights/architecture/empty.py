"""What Transformers makes of a config: all its keys, and a model without weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_TEXT = "text_config"
_SPARE = 10  # parameters of a module for each tensor of its files: some are split in memory
_LARGE = 1 << 16  # elements; what is smaller may hold values that go by a block's number


def read_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A config with all the keys that Transformers makes up; None if it refuses this one."""
    with quiet():
        try:
            made: dict[str, Any] = _config(config).to_dict()
        except Exception:  # whatever a config makes its class raise
            return None
    return made


def empty_model(config: Mapping[str, Any]) -> nn.Module:
    """The model that a config describes, of its first architecture, without its weights.

    Small buffers have their values, such as those that are computed of a block's number.

    Raises:
        Exception: whatever a config makes Transformers raise.
    """
    import torch

    with quiet():
        made = _config(config)
        kind = model_class(type(made), config.get("architectures"))
        if kind is None:
            raise ValueError(f"Transformers has no model of {type(made).__name__}")
        with torch.random.fork_rng(devices=[]), _weightless():
            model: nn.Module = kind(_fitting(kind, made))
    return model


def empty_module(folder: Path, kind: str | None = None) -> Any | None:
    """The model that a folder's config describes, all of it on no device; None if there is none.

    Args:
        kind: name of its class; by default that of its config.
    """
    import transformers

    try:
        made = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        found = getattr(transformers, kind, None) if kind else None
        found = found or model_class(type(made), made.architectures)
        with unfilled():
            return None if found is None else found(_fitting(found, made))
    except Exception:  # whatever a config makes it raise: then nothing is known of its names
        return None


def model_class(config: Any, names: Any, *, strict: bool = False) -> Any | None:
    """The class of a model: the first of its ``architectures`` that fits its config, else Auto's.

    Args:
        config: class of its config.
        names: its ``architectures``.
        strict: take none whose configs are of another class.
    """
    import transformers

    listed = names if isinstance(names, list) else ()
    found = [getattr(transformers, name, None) for name in listed if isinstance(name, str)]
    named = [(kind, getattr(kind, "config_class", None)) for kind in found]
    text = getattr(config, "sub_configs", {}).get(_TEXT)
    causal = transformers.AutoModelForCausalLM._model_mapping.get(config, None)
    whole = transformers.AutoModel._model_mapping.get(config, None)
    kinds = [
        *(kind for kind, own in named if own is config or (own is not None and own is text)),
        causal,
        *(kind for kind, own in named if own is not None and not strict),
        whole,
    ]
    return next((kind for kind in kinds if kind is not None), None)


def _fitting(kind: Any, config: Any) -> Any:
    """The config that a class is made of: of a text model's that of the text, as Auto has it."""
    text = getattr(config, "sub_configs", {}).get(_TEXT)
    return config.get_text_config() if text is not None and kind.config_class is text else config


def _config(config: Mapping[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    # from_dict takes keys out of what it is given
    return CONFIG_MAPPING[config["model_type"]].from_dict(_copied(config))


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _weightless() -> Any:
    """Puts parameters, and whatever is large, on no device."""
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            keys = kwargs or {}
            if _is_large(function, args, keys):
                keys = {**keys, "device": "meta"}
            return function(*args, **keys)

    return Mode()


def _is_large(function: Any, args: Any, keys: Mapping[str, Any]) -> bool:
    import torch

    if function is torch.empty:
        return True  # without values there is nothing to keep
    if function not in (torch.zeros, torch.ones, torch.randn, torch.rand, torch.full):
        return False
    size = args[0] if args and not isinstance(args[0], int) else keys.get("size", args)
    return math.prod(n for n in size if isinstance(n, int)) > _LARGE


@contextmanager
def unfilled(tensors: int | None = None, device: str | torch.device = "meta") -> Iterator[None]:
    """Make modules on a device whose parameters have no defined values.

    Args:
        tensors: of its files, where a module with far more parameters is to be stopped.

    Raises:
        ValueError: it has.
    """
    import torch
    from transformers.initialization import no_init_weights

    limit = nullcontext() if tensors is None else _parameters_like(tensors)
    with torch.device(device), no_init_weights(), limit:
        yield


@contextmanager
def _parameters_like(tensors: int) -> Iterator[None]:
    """Stop a module that registers far more parameters than tensors, such as a million blocks.

    Raises:
        ValueError: it does.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    parameters = left = _SPARE * (tensors + 200)

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"a model of more than {parameters} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Transformers prints from the user: the report is used, not shown."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
