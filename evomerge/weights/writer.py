"""Safetensors shards written as a stream: header first, then tensor after tensor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import OutputError

SHARD_BYTES = 5_000_000_000  # what save_pretrained uses
_CODES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
    **{"uint16": "U16", "uint32": "U32", "uint64": "U64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}


class Spec(NamedTuple):
    """What will be written: name, shape, dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_weights(
    folder: Path,
    specs: Sequence[Spec],
    tensors: Iterable[tuple[str, Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model.safetensors, or numbered shards with their index.

    Every file appears under its name only when it is whole and on the disk.

    Args:
        folder: exists already.
        specs: all tensors, in the order in which ``tensors`` yields them.
        tensors: name and value; held in memory one at a time.
        shard_bytes: a shard is closed before it would exceed this.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    shards = _shards(specs, shard_bytes)
    stream = iter(tensors)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, shard, stream)
        weight_map |= {spec.name: name for spec in shard}
    if len(shards) > 1:
        total = sum(spec.nbytes for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def _shards(specs: Sequence[Spec], shard_bytes: int) -> list[list[Spec]]:
    shards: list[list[Spec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


def _write_shard(path: Path, specs: Sequence[Spec], stream: Iterable[tuple[str, Tensor]]) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(_header(specs))
            for spec, (name, tensor) in zip(specs, stream, strict=False):
                if (name, tuple(tensor.shape), tensor.dtype) != spec:
                    raise AssertionError(f"planned {spec}, got {name} {tensor.shape}")
                _write_tensor(file, tensor)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)


def _header(specs: Sequence[Spec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in specs:
        code = _CODES[str(spec.dtype).removeprefix("torch.")]
        offsets = [start, start + spec.nbytes]
        entries[spec.name] = {"dtype": code, "shape": list(spec.shape), "data_offsets": offsets}
        start += spec.nbytes
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # data starts aligned, as safetensors writes it
    return len(raw).to_bytes(8, "little") + raw
