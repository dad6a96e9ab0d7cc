"""Names of devices, and whether this machine has them."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import ConfigError, Problem, shown

if TYPE_CHECKING:
    import torch


def present(device: str) -> str:
    """The device, checked to be on this machine; for ``auto`` a GPU if there is one, else the CPU.

    Args:
        device: torch's name for it, or ``auto``.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    if device == "auto":
        return "cuda" if has_gpu() else "cpu"
    if device == "cpu":
        return device
    if (re.fullmatch(r"cuda(:\d)?", device) and not has_gpu()) or not _is_there(device):
        text = f"{shown(device)} is not available here."
        raise ConfigError(Problem(("engine", "device"), text, "Use cpu or auto."))
    return device


def has_gpu() -> bool:
    """Whether torch can compute on a GPU. Without a driver torch is not imported to find out."""
    if "torch" not in sys.modules and sys.platform == "linux" and not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def is_cpu(device: str) -> bool:
    """Whether a name of torch's stands for the CPU."""
    return device.partition(":")[0] == "cpu"


def torch_device(device: str) -> torch.device:
    import torch

    return torch.device(device)


def release(device: str) -> None:
    """Give back what torch keeps of a GPU's memory for later."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _has_driver() -> bool:
    """Whether there is a driver that torch asks for GPUs: NVIDIA's or AMD's."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def _is_there(device: str) -> bool:
    """Whether torch finds the device.

    Raises:
        ConfigError: torch does not know it.
    """
    import torch

    try:
        wanted = torch.device(device)
        module = torch.get_device_module(wanted)
    except RuntimeError:
        text = f"torch has no device {shown(device)}."
        raise ConfigError(Problem(("engine", "device"), text, "Use cpu, cuda or auto.")) from None
    # a driver may count GPUs that it cannot start
    dead = wanted.type == "cuda" and not torch.cuda.is_available()
    return not dead and (wanted.index or 0) < module.device_count()
