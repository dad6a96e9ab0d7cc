"""The small files of a model folder: all that belongs to a model besides its weights.

They are found by a rule and not by a list, because families differ: a pooling layer's config, a
normalizer, a license. Nothing here runs or unpickles any of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.files import read_bytes
from evomerge.recipes.references import WEIGHT_FORMATS
from evomerge.weights.files.file_names import is_unrelated
from evomerge.weights.files.model_code import model_code

SMALL_BYTES = 100_000_000  # three times the largest tokenizer.json that is in use
_MODULES = "modules.json"  # of sentence-transformers: the folders of its layers


class SmallFiles(NamedTuple):
    """What `small_files` finds.

    Attributes:
        files: path to the file, sorted; the path is relative to the folder, with ``/``.
        code: the Python files among them.
        notes: sentences about what the folder holds or names and is left out.
    """

    files: dict[str, Path]
    code: tuple[str, ...]
    notes: tuple[str, ...]


def small_files(folder: Path) -> SmallFiles:
    """The files of a model besides its weights, its README and what its training left.

    They lie in the folder itself or in one below it. A folder below with weights or a config of its
    own is another model, or the same one in another format; only the layers that ``modules.json``
    names are taken whole, with their weights. Hidden files are left out, and Python files that no
    config of the model names. A link counts if it ends in the folder, in another model's or in the
    hub's cache.
    """
    code = model_code(folder)
    layers = _layers(folder)
    files: dict[str, Path] = {}
    notes: list[str] = []
    found = [path for path in _candidates(folder, layers) if path.suffix != ".py"]
    for path in [*found, *(folder / name for name in code.files)]:
        name = path.relative_to(folder).as_posix()
        if not _stays_inside(path, folder):
            notes.append(f"{path}: is left out: it links to {path.resolve()}, outside of a model.")
        elif (size := path.stat().st_size) > SMALL_BYTES:
            notes.append(f"{path}: is left out: it has {size} bytes, {SMALL_BYTES} at most count.")
        else:
            files[name] = path
    notes += [
        f"{folder}: {layer.name} is copied with its weights: a merge has no part in it."
        for layer in layers
        if any(_is_weights(file) for file in files.values() if file.is_relative_to(layer))
    ]
    kept = tuple(name for name in code.files if name in files)
    return SmallFiles(dict(sorted(files.items())), kept, (*code.notes, *notes))


def copy(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into a folder, under the paths that `small_files` gives them."""
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def _candidates(folder: Path, layers: list[Path]) -> list[Path]:
    """All that may be small files, by the names of files and folders alone."""
    found = [path for path in _listed(folder) if path.is_file() and not _is_weights(path)]
    if (folder / "config.json").is_file():  # else it may be any folder, with anything in it
        for below in _listed(folder):
            if below.is_dir() and not below.is_symlink() and below not in layers:
                inside = [path for path in _listed(below) if path.is_file()]
                found += [] if any(map(_is_of_a_model, inside)) else inside
        for layer in layers:
            found += [path for path in layer.rglob("*") if path.is_file() and path.name[0] != "."]
    return [path for path in found if not is_unrelated(path.name)]


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_weights(path: Path) -> bool:
    return path.suffix.lower() in WEIGHT_FORMATS


def _is_of_a_model(path: Path) -> bool:
    return _is_weights(path) or path.name in ("config.json", "adapter_config.json")


def _layers(folder: Path) -> list[Path]:
    """The folders that ``modules.json`` names, but for the one of the model itself."""
    try:
        modules: Any = json.loads(read_bytes(folder / _MODULES))
    except (OSError, ValueError, RecursionError):
        return []
    below = {path.name: path for path in _listed(folder) if path.is_dir()}
    listed = modules if isinstance(modules, list) else []
    named = [one.get("path") for one in listed if isinstance(one, Mapping)]
    layers = [below[name] for name in named if isinstance(name, str) and name in below]
    return [path for path in dict.fromkeys(layers) if not path.is_symlink()]


def _stays_inside(path: Path, folder: Path) -> bool:
    """Whether a file is in its folder, or a link to a file of a model."""
    target = path.resolve()
    if target.is_relative_to(folder.resolve()):
        return True
    home = target.parent
    return home.name == "blobs" or any(home.glob("*.safetensors"))
