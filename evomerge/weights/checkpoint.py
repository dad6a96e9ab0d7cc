"""A model folder, read lazily: headers first, tensors memory-mapped when asked for."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.weights.names import Place, places

FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2},
    **{"I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_MAX_HEADER_BYTES = 100_000_000
_CHUNK = 1 << 22


class TensorInfo(NamedTuple):
    """What a header says of a tensor: file, safetensors dtype (``BF16``), shape, byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Checkpoint:
    """A Hugging Face folder with safetensors weights.

    Args:
        folder: holds config.json, and model.safetensors or shards with an index.

    Attributes:
        tensors: name to `TensorInfo`, sorted by name.
        config: the parsed config.json.

    Raises:
        CheckpointError: anything missing, truncated or damaged; all problems at once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _config(folder)
        self.tensors = _headers(folder)
        self._handles: dict[Path, Any] = {}

    @cached_property
    def places(self) -> dict[str, Place]:
        """Block index and role of every tensor."""
        return places(self.tensors, self.config)

    @cached_property
    def layers(self) -> int:
        """How many blocks the model has."""
        return 1 + max((p.layer for p in self.places.values() if p.layer is not None), default=-1)

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        text = self.config.get("text_config") or {}
        return bool(self.config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))

    @property
    def parameter_count(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """A digest of headers and sampled blocks: another one means other weights."""
        digest = hashlib.sha256()
        for file in sorted({info.file for info in self.tensors.values()}):
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                for step in range(16):
                    stream.seek(size * step // 16)
                    digest.update(stream.read(1 << 16))
        return digest.hexdigest()

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from its file; treat it as read-only."""
        file = self.tensors[name].file
        if file not in self._handles:
            try:
                self._handles[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{file}: cannot be read: {error}") from None
        tensor: Tensor = self._handles[file].get_tensor(name)
        return tensor

    def non_finite(self) -> list[str]:
        """A sentence for each tensor that holds a NaN or an infinity. Reads all weights once."""
        return [
            f"{info.file}: tensor {name} holds {found}. Drop this model or repair the file."
            for name, info in self.tensors.items()
            if info.dtype in FLOATS and (found := describe_non_finite(self.read(name)))
        ]


def describe_non_finite(tensor: Tensor) -> str | None:
    """``3 NaN and 1 infinite values``, or None where all is finite."""
    flat = tensor.reshape(-1)
    nans = infinities = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        if not part.isfinite().all():
            nans += int(part.isnan().sum())
            infinities += int(part.isinf().sum())
    if not nans and not infinities:
        return None
    return f"{nans} NaN and {infinities} infinite values"


def all_finite(tensor: Tensor) -> bool:
    """Whether every element is a number."""
    # One pass: the sum of x·0 is 0 unless some x is NaN or infinite.
    return bool(torch.isfinite((tensor * 0).sum()))


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    path = folder / "config.json"
    if not path.exists():
        if (folder / "adapter_config.json").exists():
            raise CheckpointError(
                f"{folder}: holds an adapter, not a model. Merge it into its base first."
            )
        raise CheckpointError(f"{folder}: holds no config.json, so it is not a model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return config


def _weight_files(folder: Path) -> list[Path]:
    """The shards that the index names, or the one file, or every safetensors file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"{index}: not a safetensors index") from None
        problems = [
            f"{folder / name}: named in {index.name} but missing"
            for name in names
            if Path(name).name != name or not (folder / name).exists()
        ]
        if problems:
            raise CheckpointError(problems)
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    files = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        cure = " Convert its .bin files: pickles can run code." if pickles else ""
        raise CheckpointError(f"{folder}: holds no safetensors files.{cure}")
    return files


def _headers(folder: Path) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for file in _weight_files(folder):
        try:
            found = read_header(file)
        except CheckpointError as error:
            problems += error.problems
            continue
        problems += [
            f"{file}: tensor {name} is also in {tensors[name].file.name}"
            for name in found
            if name in tensors
        ]
        tensors |= found
    if problems:
        raise CheckpointError(problems)
    return dict(sorted(tensors.items()))


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Name to `TensorInfo`, from the first bytes of a safetensors file alone.

    Raises:
        CheckpointError: the file is truncated, or its header does not describe its bytes.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{file}: truncated or not safetensors: {size} bytes, "
                f"the header alone should have {length}. Copy the file again."
            )
        raw = stream.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = {
            name: TensorInfo(
                file, entry["dtype"], tuple(entry["shape"]), *map(int, entry["data_offsets"])
            )
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{file}: its header is damaged. Copy the file again.") from None
    expected = 8 + length + max((info.end for info in tensors.values()), default=0)
    if size < expected:
        raise CheckpointError(
            f"{file}: truncated: {size} bytes of {expected}. Copy the file again."
        )
    wrong = [
        name
        for name, info in tensors.items()
        if info.dtype in _BYTES
        and math.prod(info.shape) * _BYTES[info.dtype] != info.end - info.start
    ]
    if wrong or size > expected:
        detail = f"tensor {wrong[0]}" if wrong else f"{size - expected} bytes too many"
        raise CheckpointError(f"{file}: header and data disagree ({detail}). Copy the file again.")
    return tensors
