"""The files that a model is read from: which they are, their digests, and whether they change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from evomerge.errors import CheckpointError, SourceChangedError
from evomerge.files import require_regular
from evomerge.weights.files.file_names import TEMPLATE_FOLDER, is_read
from evomerge.weights.files.headers import TensorInfo, read_header
from evomerge.weights.files.model_code import model_code

PUT_BACK = "Put the files back as they were; a run then goes on with evomerge resume."
ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "weights"  # in a record: the digest of all weights, however they are spread over files
_UNREAD_KEYS = ("_name_or_path", "transformers_version")  # of a config
_SAMPLE_BYTES = 1 << 12
_SAMPLES = 16  # of a tensor
_SAMPLED = _SAMPLES * _SAMPLE_BYTES
_WHOLE = 1 << 20  # bytes of a tensor that are looked at where a file is compared with itself


class FileState(NamedTuple):
    """What a file's directory entry says of it; another content comes with another state."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int  # no program can set this one

    @classmethod
    def of(cls, entry: os.DirEntry[str]) -> FileState:
        """The state of a file; of a link, that of the file behind it."""
        found = entry.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class ModelFiles:
    """The files in a folder that a score depends on, as they are when this object is made.

    Args:
        folder: of a model, an adapter or statistics.

    Attributes:
        weights: names of the safetensors files that are read; all of them, unless set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._code = frozenset(model_code(folder).files)
        self._states = _states(folder, self._code)
        self.weights = [name for name in self._states if name.endswith(".safetensors")]

    @cached_property
    def digests(self) -> dict[str, str]:
        """Name to digest: of weights by headers and samples, of other files by what they say.

        Raises:
            CheckpointError: a file cannot be read.
            SourceChangedError: a file has changed since this object was made.
        """
        found = {name: self._digest(name) for name in self._states if self._counts(name)}
        if _states(self.folder, self._code) != self._states:
            raise SourceChangedError(f"{self.folder}: its files change while they are read.")
        return found

    def changes(self) -> list[str]:
        """A sentence for each file whose content is not as it was. Looks, and mostly reads nothing.

        A file that was touched, or replaced by an equal one, counts as unchanged.

        Raises:
            OSError: the disk cannot be read.
        """
        before, now = self.digests, _states(self.folder, self._code)
        if now == self._states:
            return []
        names = dict.fromkeys([*self._states, *now])
        touched = [n for n in names if self._states.get(n) != now.get(n) and self._counts(n)]
        what = {name: what for name in touched if (what := self._change(name, before, now))}
        if not what:
            self._states = now
        return [f"{self.folder / name}: {text} while it was in use." for name, text in what.items()]

    def _change(self, name: str, before: Container[str], now: Container[str]) -> str | None:
        """What has become of a file that may have changed; None where it says the same."""
        if name not in now:
            return "was removed"
        if name not in before:
            return "was added"
        try:
            return "changed" if self._digest(name) != self.digests[name] else None
        except CheckpointError:
            return "changed, and cannot be read any more,"

    @property
    def states(self) -> dict[str, FileState]:
        """Name to state, as far as they are known to belong to the content of `digests`."""
        return dict(self._states)

    def _counts(self, name: str) -> bool:
        return not name.endswith(".safetensors") or name in self.weights

    def _digest(self, name: str) -> str:
        path = self.folder / name
        if not name.endswith(".safetensors"):
            return file_digest(path)
        return weights_digest(dict(sorted(read_header(path).items())), _WHOLE)


def require_unchanged(sentences: Iterable[str]) -> None:
    """Raise if there is any sentence about files that have changed.

    Raises:
        SourceChangedError: with all of them.
    """
    if problems := list(sentences):
        raise SourceChangedError("\n".join([*problems, PUT_BACK]))


def _states(folder: Path, code: Collection[str]) -> dict[str, FileState]:
    """Name to state of every file in a folder that a score may depend on, sorted by name.

    Args:
        code: the Python files that its configs name.
    """
    found: dict[str, FileState] = {}
    with suppress(FileNotFoundError, NotADirectoryError):  # gone, also while it is looked at
        for entry in os.scandir(folder):
            if entry.name == TEMPLATE_FOLDER and entry.is_dir():
                inner = (e for e in os.scandir(entry.path) if _is_file(e))
                found |= {f"{TEMPLATE_FOLDER}/{e.name}": FileState.of(e) for e in inner}
            elif _counts(entry.name, code) and _is_file(entry):
                found[entry.name] = FileState.of(entry)
    return dict(sorted(found.items()))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _counts(name: str, code: Collection[str]) -> bool:
    return name.endswith(".safetensors") or is_read(name) or name in code


def file_digest(path: Path) -> str:
    """sha256 of a file; of a config, of what it says, whatever the order of its keys and spaces.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if path.name.endswith("config.json"):
                with suppress(ValueError, RecursionError):  # reported by whoever needs it
                    said = json.dumps(_without_names(json.load(file)), sort_keys=True)
                    return hashlib.sha256(said.encode()).hexdigest()
                file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None


def _without_names(value: Any) -> Any:
    """JSON without the keys that say where a model was made, on which no score depends."""
    if isinstance(value, dict):
        return {k: _without_names(v) for k, v in value.items() if k not in _UNREAD_KEYS}
    return [_without_names(item) for item in value] if isinstance(value, list) else value


def weights_digest(tensors: Mapping[str, TensorInfo], whole: int = _SAMPLED) -> str:
    """sha256 of tensors: names, dtypes, shapes, and samples of each, in this order.

    Args:
        whole: bytes up to which all of a tensor is looked at.

    Nothing is mapped: that would read much around each sample, and a file that is cut meanwhile
    would end the process.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    starts: dict[Path, int] = {}  # of the data in a file
    with ExitStack() as opened:
        files: dict[Path, BinaryIO] = {}
        for name, info in tensors.items():
            try:
                if info.file not in files:
                    require_regular(info.file)
                    files[info.file] = opened.enter_context(info.file.open("rb", buffering=0))
                    starts[info.file] = 8 + int.from_bytes(files[info.file].read(8), "little")
                digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
                for first, last in _samples(info.end - info.start, whole):
                    files[info.file].seek(starts[info.file] + info.start + first)
                    digest.update(files[info.file].read(last - first))
            except OSError as error:
                raise CheckpointError(
                    f"{info.file}: cannot be read: {error.strerror or error}"
                ) from None
    return digest.hexdigest()


def _samples(size: int, whole: int) -> Iterator[tuple[int, int]]:
    """The stretches of a tensor's bytes that are looked at: all of a small one's."""
    if size <= whole:
        yield 0, size
        return
    for number in range(_SAMPLES):
        first = (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1)
        yield first, first + _SAMPLE_BYTES
