"""The random generators of a process, put back as they were."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor


def _cuda_states() -> list[Tensor]:
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.get_rng_state_all() if started else []


class Generators:
    """The state of the process's generators when this was made."""

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = _cuda_states()

    def restore(self) -> None:
        """Go back to it."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
