"""Whether weights hold NaN or infinities."""

from __future__ import annotations

from torch import Tensor

from evomerge.kernels.passes import all_finite
from evomerge.weights.files.headers import TensorInfo

_CHUNK = 1 << 22  # elements


def non_finite_sentence(info: TensorInfo, name: str, tensor: Tensor) -> str | None:
    """A sentence that names file and tensor if it holds NaN or infinities, else None."""
    flat = tensor.reshape(-1)
    nans = infinities = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        if not all_finite(part):
            nans += int(part.isnan().sum())
            infinities += int(part.isinf().sum())
    if not nans and not infinities:
        return None
    return (
        f"{info.file}: tensor {name} holds {nans} NaN and {infinities} infinite values. "
        "Drop this model or repair the file."
    )
