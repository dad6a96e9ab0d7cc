"""The safetensors files of a model and their headers; no weight is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import CheckpointError
from evomerge.files import require_regular
from evomerge.weights.files.weight_files import is_allowed, weight_files

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
_MOST_ELEMENTS = 2**63 - 1
_AGAIN = "Copy the file again."


class TensorInfo(NamedTuple):
    """A tensor in a header: its file, safetensors dtype (``BF16``), shape, byte range."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Headers(NamedTuple):
    """What the headers of a model's files say.

    Attributes:
        tensors: by name, sorted.
        note: a sentence about files that are not read, or read together; None where there is none.
    """

    tensors: dict[str, TensorInfo]
    note: str | None


def read_headers(
    folder: Path, stem: str = "model", *, bare: bool = True, allowed: Sequence[str] = ()
) -> Headers:
    """Every tensor of a model folder.

    Args:
        stem, bare, allowed: as in `weight_files`.

    Raises:
        CheckpointError: files that are missing, truncated or damaged, an index that disagrees with
            its files; all at once.
    """
    tensors: dict[str, TensorInfo] = {}
    problems: list[str] = []
    chosen = weight_files(folder, stem, bare=bare, allowed=allowed)
    for file in chosen.files:
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
        if chosen.promised is not None:
            problems += _disagreements(file, found, chosen.promised[file.name], allowed)
        tensors |= found
    if problems:
        raise CheckpointError(problems)
    return Headers(dict(sorted(tensors.items())), chosen.note)


def _disagreements(
    file: Path, found: Mapping[str, TensorInfo], promised: Sequence[str], allowed: Sequence[str]
) -> Iterator[str]:
    """Sentences about tensors that only one of a file and its index names."""
    known = set(promised)
    for name in promised:
        if name not in found and not is_allowed(name, allowed):
            yield f"{file}: lacks tensor {name}, which the index says it has. Copy the model again."
    for name in found:
        if name not in known and not is_allowed(name, allowed):
            yield f"{file}: holds tensor {name}, which the index lacks. Copy the model again."


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
        entries = json.loads(raw, object_pairs_hook=_unique)
        if not all(isinstance(v, str) for v in entries.pop("__metadata__", {}).values()):
            raise TypeError
        tensors = {name: _info(file, entry) for name, entry in entries.items()}
        "".join(tensors).encode()  # half a character in a name could not be written again
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


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The keys and values of an object, none given twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _info(file: Path, entry: Mapping[str, Any]) -> TensorInfo:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(entry["dtype"], str):
        raise TypeError
    if any(type(number) is not int or number < 0 for number in (*shape, start, end)):
        raise ValueError
    if math.prod(max(number, 1) for number in shape) > _MOST_ELEMENTS:
        raise ValueError  # torch counts in 64 bits, also where another length is 0
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
