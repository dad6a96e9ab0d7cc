"""The safetensors files of a model and their headers; no weight is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import CheckpointError
from evomerge.files import read_object, require_regular

FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
DTYPES = {
    **FLOATS,
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
BYTES = {  # of one element
    **{"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1},
    **{"U8": 1, "U64": 8, "U32": 4, "U16": 2, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_AGAIN = "Copy the file again."


class TensorInfo(NamedTuple):
    """A tensor in a header: its file, safetensors dtype (``BF16``), shape, byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_headers(folder: Path, stem: str = "model") -> dict[str, TensorInfo]:
    """Every tensor of a model folder, sorted by name.

    Args:
        stem: the file names' beginning.

    Raises:
        CheckpointError: files that are missing, truncated or damaged, all at once.
    """
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    files, promised = _weight_files(folder, stem)
    for file in files:
        try:
            found = read_header(file)
        except CheckpointError as error:
            problems += error.problems
            continue
        problems += [
            f"{file}: tensor {name} is also in {tensors[name].file.name}. Delete one of the files."
            for name in found
            if name in tensors
        ]
        problems += [
            f"{file}: lacks tensor {name}, which the index says it has. Copy the model again."
            for name in promised.get(file.name, ())
            if name not in found
        ]
        tensors |= found
    if problems:
        raise CheckpointError(problems)
    return dict(sorted(tensors.items()))


def _weight_files(folder: Path, stem: str) -> tuple[list[Path], Mapping[str, list[str]]]:
    """The one file, or the shards that the index names, or every safetensors file.

    Returns:
        the files, and for each shard's name the tensors that the index promises.
    """
    single = folder / f"{stem}.safetensors"
    index = folder / f"{stem}.safetensors.index.json"
    if single.exists():  # before the index, as Transformers does
        return [single], {}
    if index.exists():
        return _indexed(index)
    files = sorted(f for f in folder.glob("*.safetensors") if not f.name.startswith("adapter_"))
    if not files:
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        cure = " Convert its .bin files: pickles can run code." if pickles else ""
        raise CheckpointError(f"{folder}: holds no safetensors files.{cure}")
    return files, {}


def _indexed(index: Path) -> tuple[list[Path], Mapping[str, list[str]]]:
    try:
        weight_map = read_object(index, CheckpointError, _AGAIN)["weight_map"]
        promised: dict[str, list[str]] = {file: [] for file in sorted(set(weight_map.values()))}
        for tensor, file in weight_map.items():
            promised[file].append(tensor)
        paths = {file: index.parent / file for file in promised}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{index}: not a safetensors index. {_AGAIN}") from None
    problems = [
        f"{index}: names {file!r}, which is not a file beside it. Copy the model again."
        for file, path in paths.items()
        if path.parent != index.parent or path.name != file or file == ".."
    ] or [
        f"{path}: named in {index.name} but missing. Copy the model again."
        for path in paths.values()
        if not path.is_file()
    ]
    if problems:
        raise CheckpointError(problems)
    return list(paths.values()), promised


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Name to `TensorInfo`, from the header of one safetensors file.

    Raises:
        CheckpointError: the file is truncated, or its header does not describe its bytes.
    """
    try:
        require_regular(file)
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{file}: truncated or not safetensors: {size} bytes, "
                    f"the header alone should have {length}. {_AGAIN}"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    try:
        entries = json.loads(raw)
        if not all(isinstance(v, str) for v in entries.pop("__metadata__", {}).values()):
            raise TypeError
        tensors = {name: _info(file, entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{file}: its header is damaged. {_AGAIN}") from None
    unknown = [name for name, info in tensors.items() if info.dtype not in BYTES]
    if unknown:
        raise CheckpointError(
            f"{file}: tensor {unknown[0]} is stored as {tensors[unknown[0]].dtype}, which cannot "
            "be merged. Give the full-precision model."
        )
    _check_layout(file, tensors, size - 8 - length)
    return tensors


def _info(file: Path, entry: Mapping[str, Any]) -> TensorInfo:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(entry["dtype"], str):
        raise TypeError
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError
    return TensorInfo(file, entry["dtype"], tuple(shape), start, end)


def _check_layout(file: Path, tensors: Mapping[str, TensorInfo], data_bytes: int) -> None:
    """Tensors must follow one another without gaps, and fill the file."""
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1][3:]):
        expected = math.prod(info.shape) * BYTES[info.dtype]
        if info.start != position or info.end - info.start != expected:
            raise CheckpointError(f"{file}: header and data disagree (tensor {name}). {_AGAIN}")
        position = info.end
    if data_bytes < position:
        raise CheckpointError(
            f"{file}: truncated: {data_bytes} bytes of weights, expected {position}. {_AGAIN}"
        )
    if data_bytes > position:
        raise CheckpointError(
            f"{file}: header and data disagree ({data_bytes - position} bytes too many). {_AGAIN}"
        )
