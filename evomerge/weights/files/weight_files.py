"""Which safetensors files of a folder are the model's, and which files are not read."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from evomerge.errors import CheckpointError, listed
from evomerge.files import read_object
from evomerge.recipes.references import PICKLES

_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.safetensors", re.S)
_AGAIN = "Copy the model again."
# what a training leaves beside the weights
_OTHERS = ("training_args*", "optimizer*", "scheduler*", "scaler*", "rng_state*", "*optim*states*")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of a model.

    Attributes:
        files: to be read.
        unread: names of other files with weights in the folder.
        promised: for each file's name the tensors that the index says are in it; None without one.
    """

    files: tuple[Path, ...]
    unread: tuple[str, ...] = ()
    promised: Mapping[str, Sequence[str]] | None = field(default=None)

    @property
    def note(self) -> str | None:
        """A sentence about files that are not read, or about several that are one model."""
        names = [file.name for file in self.files]
        folder = self.files[0].parent
        if self.unread:
            return (
                f"{listed(self.unread)} in {folder}: not read, the model's weights are in "
                f"{listed(names)}."
            )
        if self.promised is None and len(names) > 1 and not _sets(names):
            return f"{listed(names)} in {folder}: read together, as one model."
        return None


def is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Whether a tensor may be missing: whether one of the patterns matches its name."""
    return any(fnmatchcase(name, pattern) for pattern in allowed)


def weight_files(
    folder: Path, stem: str, *, bare: bool = True, allowed: Sequence[str] = ()
) -> WeightFiles:
    """The files that Transformers would read: ``model.safetensors``, else those of the index.

    Without either it is the only complete set of ``-0000N-of-0000M``. Without such a set a folder
    of the user's own is one model in all of its files, and one of Transformers has a single file.

    Args:
        stem: the file names' beginning.
        bare: whether it is the user's own, and not one of Transformers.
        allowed: patterns of tensors that may be missing.

    Raises:
        CheckpointError: files that are missing, or that cannot be told from others.
    """
    there = sorted(file.name for file in folder.glob("*.safetensors"))
    single = f"{stem}.safetensors"
    if single in there:  # before the index, as Transformers does
        return _found(folder, [single], there)
    index = folder / f"{stem}.safetensors.index.json"
    if os.path.lexists(index):
        promised = _promised(index, allowed)
        return _found(folder, list(promised), there, promised)
    candidates = [name for name in there if not name.startswith("adapter_")]
    if not candidates:
        raise CheckpointError(f"{folder}: holds no safetensors files.{conversion(folder)}")
    sets = _sets(candidates)
    if sets:
        return _found(folder, _one_set(folder, sets, stem, allowed), there)
    if len(candidates) > 1 and not bare:
        raise CheckpointError(
            f"{folder}: holds {listed(candidates)}, and neither {single} nor an index says which "
            f"is the model. Call it {single}, or move the others away."
        )
    return _found(folder, candidates, there)


def pickles(folder: Path) -> list[Path]:
    """Its files that PyTorch pickled, sorted, without those that a trainer leaves."""
    there = sorted(path for ending in PICKLES for path in folder.glob(f"*{ending}"))
    return [path for path in there if not any(fnmatchcase(path.name, o) for o in _OTHERS)]


def conversion(folder: Path) -> str:
    """`` Make them ...`` and the command, where weights are pickles, or may be so on the hub."""
    cached = re.fullmatch(r"models--(.+?)--(.+)", folder.parent.parent.name)
    if any(path for ending in PICKLES for path in folder.glob(f"*{ending}")):
        model = str(folder)
    elif cached:
        model = f"{cached[1]}/{cached[2]}@{folder.name}"  # only safetensors are downloaded
    else:
        return ""
    return (
        " Make them of its .bin files, of which nothing is run: "
        f"evomerge convert {shlex.quote(model)} OUT"
    )


def _found(
    folder: Path,
    names: Sequence[str],
    there: Sequence[str],
    promised: Mapping[str, Sequence[str]] | None = None,
) -> WeightFiles:
    unread = [name for name in there if name not in names]
    unread += [p.name for p in pickles(folder) if p.suffix != ".bin" or "model" in p.name]
    return WeightFiles(tuple(folder / name for name in names), tuple(unread), promised)


def _sets(names: Sequence[str]) -> dict[tuple[str, int], dict[int, str]]:
    """By stem and count, the files ``-0000N-of-0000M`` by N."""
    found: dict[tuple[str, int], dict[int, str]] = defaultdict(dict)
    for name in names:
        if (part := _PART.fullmatch(name)) is not None:
            found[part["stem"], int(part["count"])][int(part["number"])] = name
    return dict(found)


def _one_set(
    folder: Path,
    sets: Mapping[tuple[str, int], Mapping[int, str]],
    stem: str,
    allowed: Sequence[str],
) -> list[str]:
    """The names of the only set, or of the only one with the stem."""
    own = {key: files for key, files in sets.items() if key[0] == stem} or sets
    if len(own) > 1:
        first = listed([next(iter(files.values())) for files in own.values()])
        raise CheckpointError(
            f"{folder}: holds the sets of {first}, and no index says which is the model. "
            "Move the others away."
        )
    ((_, count), files), *_ = own.items()
    if (problem := _gap(files, count)) and "*" not in allowed:
        raise CheckpointError(f"{folder}: {problem}. {_AGAIN}")
    return [files[number] for number in sorted(files)]


def _gap(files: Mapping[int, str], count: int) -> str:
    """What a set lacks; empty for a complete one."""
    some = next(iter(files.values()))
    lacking = count - len([number for number in files if 1 <= number <= count])
    return f"{some} is one of {count} files, of which {lacking} are missing" if lacking else ""


def _promised(index: Path, allowed: Sequence[str]) -> dict[str, list[str]]:
    """For each file that an index names the tensors that it promises."""
    weight_map = read_object(index, CheckpointError, _AGAIN).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        raise CheckpointError(f"{index}: not a safetensors index: no weight_map. {_AGAIN}")
    promised: dict[str, list[str]] = {file: [] for file in sorted(set(weight_map.values()))}
    for tensor, file in weight_map.items():
        promised[file].append(tensor)
    problems = [
        f"{index}: names {file!r}, which is not a file beside it. {_AGAIN}"
        for file in promised
        if file in ("", ".", "..") or "/" in file or "\0" in file
    ]
    if not problems:
        gone = [file for file in promised if not os.path.lexists(index.parent / file)]
        lost = [f for f in gone if not all(is_allowed(name, allowed) for name in promised[f])]
        problems = [
            f"{index.parent / file}: named in {index.name} but missing, with "
            f"{listed(promised[file])}. {_AGAIN}"
            for file in lost
        ]
        promised = {file: names for file, names in promised.items() if file not in gone}
        if not gone:
            gaps = [_gap(files, count) for (_, count), files in _sets(list(promised)).items()]
            problems = [f"{index}: {gap} in it. {_AGAIN}" for gap in gaps if gap]
    if problems:
        raise CheckpointError(problems)
    return promised
