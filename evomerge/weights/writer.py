"""Safetensors shards written as a stream: header first, then tensor after tensor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import OutputError
from evomerge.weights.headers import DTYPES

SHARD_BYTES = 5_000_000_000  # what save_pretrained uses
_CODES = {getattr(torch, name): code for code, name in DTYPES.items()}


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

    Every file appears under its name only when it is whole and on the disk; a failure leaves
    none of them behind. One file holds the bytes that ``safetensors.torch.save_file`` writes if
    the specs are ordered as in a `Plan`.

    Args:
        folder: exists, and holds no weights yet.
        specs: all tensors, in the order in which ``tensors`` yields them.
        tensors: name and value; held in memory one at a time.
        shard_bytes: a shard is closed before it would exceed this.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    shards = _shards(specs, shard_bytes)
    stream = iter(tensors)
    weight_map: dict[str, str] = {}
    written: list[Path] = []
    try:
        for number, shard in enumerate(shards, start=1):
            name = "model.safetensors"
            if len(shards) > 1:
                name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            written.append(folder / name)
            with _whole(folder / name) as file:
                _write_shard(file, shard, stream)
            weight_map |= {spec.name: name for spec in shard}
        assert next(stream, None) is None, "more tensors than planned"
        if len(shards) > 1:
            total = sum(spec.nbytes for spec in specs)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            with _whole(folder / "model.safetensors.index.json") as file:
                file.write((json.dumps(index, indent=2) + "\n").encode())
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears as ``path`` when all went well, and never otherwise."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


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


def _write_shard(
    file: BinaryIO, specs: Sequence[Spec], stream: Iterator[tuple[str, Tensor]]
) -> None:
    file.write(_header(specs))
    for spec in specs:
        name, tensor = next(stream, ("nothing", torch.empty(0)))
        assert (name, tuple(tensor.shape), tensor.dtype) == spec, f"planned {spec}, got {name}"
        _write_tensor(file, tensor)


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)


def _header(specs: Sequence[Spec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for spec in specs:
        offsets = [start, start + spec.nbytes]
        dtype, shape = _CODES[spec.dtype], list(spec.shape)
        entries[spec.name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        start += spec.nbytes
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # data starts aligned, as safetensors writes it
    return len(raw).to_bytes(8, "little") + raw
