"""Safetensors files, one or many shards, that appear when they are complete."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from evomerge.weights.files.headers import DTYPES
from evomerge.weights.output.folders import unwritable

SHARD_BYTES = 5_000_000_000  # what save_pretrained uses
_CODES = {getattr(torch, name): code for code, name in DTYPES.items()}


class Spec(NamedTuple):
    """A tensor to be written: name, shape, dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


class WeightsWriter:
    """Writes model.safetensors, or numbered shards with their index; tensors in any order.

    Headers are written first, so that every tensor has its place before any value is known. Files
    appear under their names only when all are complete and on the disk; a failure leaves none
    behind. One file has the bytes that ``safetensors.torch.save_file`` writes if the specs are
    ordered as in a `Plan`. Used in a ``with`` statement.

    Args:
        folder: exists, and holds no weights yet.
        specs: all tensors.
        shard_bytes: a shard is closed before it would exceed this.
        stem: the file names' beginning.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        specs: Sequence[Spec],
        shard_bytes: int = SHARD_BYTES,
        stem: str = "model",
    ) -> None:
        self.folder, self.stem = folder, stem
        self._shards = _shards(specs, shard_bytes)
        self._files: dict[Path, int] = {}
        self._places: dict[str, tuple[Path, int, Spec]] = {}
        self._left = sum(spec.nbytes for spec in specs)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            for number, shard in enumerate(self._shards, start=1):
                self._open(self.folder / self._name(number), shard)
        except OSError as error:
            self._discard()
            raise unwritable(self.folder, error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._finish()
        except OSError as problem:
            raise unwritable(self.folder, problem) from problem
        finally:
            self._discard()
        if isinstance(error, OSError):
            raise unwritable(self.folder, error) from error

    def write(self, name: str, start: int, values: Tensor) -> None:
        """Write a stretch of a tensor; from any thread.

        Args:
            start: flat index of the stretch's first element.
            values: (n,) in the tensor's dtype.
        """
        path, offset, spec = self._places[name]
        assert values.dtype == spec.dtype, f"planned {spec}, got {values.dtype}"
        data = values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        position = offset + start * spec.dtype.itemsize
        try:
            while data:
                written = os.pwrite(self._files[path], data, position)
                data, position = data[written:], position + written
        except OSError as error:
            raise unwritable(path, error) from error
        with self._lock:
            self._left -= values.numel() * spec.dtype.itemsize

    def _name(self, number: int) -> str:
        if len(self._shards) == 1:
            return f"{self.stem}.safetensors"
        return f"{self.stem}-{number:05d}-of-{len(self._shards):05d}.safetensors"

    def _open(self, path: Path, shard: Sequence[Spec]) -> None:
        header = _header(shard)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self._files[path] = os.open(_partial(path), flags, 0o666)
        os.pwrite(self._files[path], header, 0)
        position = len(header)
        for spec in shard:
            self._places[spec.name] = (path, position, spec)
            position += spec.nbytes
        os.truncate(self._files[path], position)

    def _finish(self) -> None:
        assert self._left == 0, f"{self._left} bytes of the plan were not written"
        for descriptor in self._files.values():
            os.fsync(descriptor)
        done: list[Path] = []
        try:
            for path in self._files:
                _partial(path).replace(path)
                done.append(path)
            if len(self._shards) > 1:
                done.append(self._write_index())
        except BaseException:
            for path in done:
                path.unlink(missing_ok=True)
            raise

    def _write_index(self) -> Path:
        path = self.folder / f"{self.stem}.safetensors.index.json"
        specs = [spec for shard in self._shards for spec in shard]
        total = sum(spec.nbytes for spec in specs)
        weight_map = {spec.name: self._places[spec.name][0].name for spec in specs}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _partial(path).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        _partial(path).replace(path)
        return path

    def _discard(self) -> None:
        for path, descriptor in self._files.items():
            with suppress(OSError):
                os.close(descriptor)
            with suppress(OSError):
                _partial(path).unlink(missing_ok=True)
        self._files = {}


def write_weights(
    folder: Path,
    specs: Sequence[Spec],
    tensors: Iterable[tuple[str, Tensor]],
    shard_bytes: int = SHARD_BYTES,
    stem: str = "model",
) -> None:
    """Write whole tensors, one after another; arguments and errors as for `WeightsWriter`.

    Args:
        tensors: name and value of every spec, in any order; held in memory one at a time.
    """
    planned = {spec.name: spec for spec in specs}
    with WeightsWriter(folder, specs, shard_bytes, stem) as writer:
        for name, tensor in tensors:
            spec = planned.pop(name, None)
            assert spec is not None, f"{name} was not planned"
            assert tuple(tensor.shape) == spec.shape, f"planned {spec}, got {tensor.shape}"
            writer.write(name, 0, tensor)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


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
