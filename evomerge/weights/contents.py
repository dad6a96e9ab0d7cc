"""Questions about weights: their digest, and whether they hold NaN or infinities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evomerge.kernels.passes import all_finite
from evomerge.weights.headers import TensorInfo
from evomerge.weights.model_files import samples

_CHUNK = 1 << 22  # elements


def digest_of(tensors: Mapping[str, TensorInfo], read: Callable[[str], Tensor]) -> str:
    """A digest of names, dtypes, shapes and of samples from every tensor."""
    digest = hashlib.sha256()
    for name, info in tensors.items():
        digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
        data = read(name).reshape(-1).view(torch.uint8).numpy()
        for start, stop in samples(len(data)):
            digest.update(data[start:stop].data)
    return digest.hexdigest()


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
