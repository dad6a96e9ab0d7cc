"""What Transformers makes of a config: all its keys, and a model without weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evomerge.weights.architecture.conformity import quiet

if TYPE_CHECKING:
    from torch import nn

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
    import transformers

    with quiet():
        made = _config(config)
        names = config.get("architectures") or ()
        kinds = [getattr(transformers, name, None) for name in names]
        if not any(kinds):
            autos = (transformers.AutoModelForCausalLM, transformers.AutoModel)
            kinds = [auto._model_mapping.get(type(made), None) for auto in autos]
        kind: Any = next((kind for kind in kinds if kind is not None), None)
        if kind is None:
            raise ValueError(f"Transformers has no model of {type(made).__name__}")
        with torch.random.fork_rng(devices=[]), _weightless():
            model: nn.Module = kind(made)
    return model


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
