"""Where a model is to be, if this machine has such a device."""

from __future__ import annotations

import torch

from evomerge.errors import ConfigError


def present(device: str) -> str:
    """The device that is meant, which this machine has.

    Args:
        device: torch's name for it, or ``auto``.

    Raises:
        ConfigError: torch does not know it, or it is not there.
    """
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
