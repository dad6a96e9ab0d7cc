"""Models whose weights are pickles (``.bin``, ``.pt``), written as safetensors; runs no code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, shown
from evomerge.files import read_object, require_regular
from evomerge.recipes.references import PICKLES, resolve
from evomerge.weights.files.headers import DTYPES
from evomerge.weights.files.small_files import copy, small_files
from evomerge.weights.files.weight_files import pickles
from evomerge.weights.output.folders import new_folder, require_free, require_space
from evomerge.weights.output.writer import SHARD_BYTES, Spec, write_weights

# as Transformers and PEFT call weights in either format
_STEMS = {"pytorch_model": "model", "adapter_model": "adapter_model"}
_PART = re.compile(r".*-(\d{5})-of-(\d{5})")
_INSIDE = ("state_dict", "model_state_dict", "model", "module")  # of a dictionary around tensors
_DTYPES = {getattr(torch, name) for name in DTYPES.values()}
_AGAIN = "Copy the file again."


def convert(model: str, out: Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """A new folder with the same tensors as safetensors, and the model's small files.

    Tensors are read by `torch.load` with ``weights_only``, which refuses whatever is more than
    tensors. Tensors that share their memory, as a tied head does, are written each by itself. The
    folder appears when it is complete; a failure leaves nothing behind.

    Args:
        model: a folder, or ``org/name[@revision]``: of a model or an adapter.
        out: must not exist, or be an empty folder.
        shard_bytes: the size at which a weights file is closed and the next one begun.

    Returns:
        ``out``.

    Raises:
        InputError: ``out`` is taken, no such files, or files with more than tensors in them.
        OutputError: the disk is full, or ``out`` cannot be written.
    """
    require_free(out)
    folder = resolve(model, PICKLES)
    files = _files(folder)
    tensors: dict[str, Tensor] = {}
    problems: list[str] = []
    for file in files:
        try:
            found = _read(file)
        except CheckpointError as error:
            problems += error.problems
            continue
        problems += [f"{file}: {n} is in another file too." for n in found if n in tensors]
        tensors |= found
    if problems:
        raise CheckpointError(problems)
    specs = [Spec(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()]
    specs.sort(key=lambda spec: (-spec.dtype.itemsize, spec.name))
    stem = next((new for old, new in _STEMS.items() if files[0].name.startswith(old)), "model")
    with new_folder(out) as partial:
        require_space(partial, out, sum(spec.nbytes for spec in specs))
        values = ((spec.name, tensors[spec.name]) for spec in specs)
        write_weights(partial, specs, values, shard_bytes, stem)
        copy(small_files(folder).files, partial)
    return out


def _files(folder: Path) -> list[Path]:
    """The pickles of a model: one file, those that an index names, or a complete set."""
    for stem in _STEMS:
        index = folder / f"{stem}.bin.index.json"
        if (folder / f"{stem}.bin").exists():
            return [folder / f"{stem}.bin"]
        if index.exists():
            return _named(index)
    there = pickles(folder)
    parts = [match for path in there if (match := _PART.fullmatch(path.stem))]
    numbers = [int(part[1]) for part in parts]
    if parts and len(parts) == len(there) and numbers == list(range(1, int(parts[0][2]) + 1)):
        return there
    if len(there) == 1 and not parts:
        return there
    listed = ", ".join(path.name for path in there[:3]) or "none"
    raise CheckpointError(
        f"{folder}: expected pytorch_model.bin, its index with all files, or a single .bin, .pt or "
        f".pth file, got {listed}. Copy the model again, or move the others away."
    )


def _named(index: Path) -> list[Path]:
    names = read_object(index, CheckpointError, _AGAIN).get("weight_map")
    if not isinstance(names, Mapping) or not names:
        raise CheckpointError(f"{index}: not an index: no weight_map. {_AGAIN}")
    files = dict.fromkeys(map(str, names.values()))
    wrong = [name for name in files if Path(name).name != name]
    lost = [name for name in files if name not in wrong and not (index.parent / name).exists()]
    if wrong or lost:
        raise CheckpointError(
            f"{index}: names {shown((wrong or lost)[0])}, which is not beside it. {_AGAIN}"
        )
    return [index.parent / name for name in files]


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, by name."""
    content = _load(file)
    for key in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file}: expected tensors by name, got {type(content).__name__}.")
    problems = list(_problems(file, content))
    if problems:
        raise CheckpointError(problems)
    return {name: tensor.detach() for name, tensor in content.items()}


def _load(file: Path) -> Any:
    try:
        require_regular(file)
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before 1.6, which cannot be mapped, or no such file
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(GLOBAL|global|class|function) `?([\w.]+)", str(error))
        named = f" ({found[2]})" if found else ""
        raise CheckpointError(
            f"{file}: holds more than tensors{named}, which opening would run, or is damaged. "
            "It was not opened. Save its state_dict alone, or take another copy."
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), repr(error))
        raise CheckpointError(f"{file}: cannot be read: {reason} {_AGAIN}") from None


def _problems(file: Path, content: Mapping[Any, Any]) -> Iterator[str]:
    others = [name for name, value in content.items() if not _is_plain(name, value)]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        yield (
            f"{file}: {shown(others[0])}{more} cannot be written as safetensors: expected a dense "
            "tensor of a usual dtype. Save the model's state_dict in full precision."
        )


def _is_plain(name: Any, value: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.dtype in _DTYPES
        and not value.is_meta
    )
