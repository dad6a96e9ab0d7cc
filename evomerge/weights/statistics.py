"""A folder of statistics of one model, as `evomerge statistics` writes it, read lazily."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from evomerge.errors import CheckpointError
from evomerge.files import parse_object, read_bytes
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import read_headers
from evomerge.weights.files.mapped_files import MappedFiles

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
STEM = "statistics"

StatisticsKind = Literal["fisher", "gram", "second_moments", "raw"]


class Manifest(BaseModel):
    """What statistics were collected, of which model, on which examples.

    Attributes:
        format: version of the folder's format.
        evomerge: the version that wrote it.
        kind: ``fisher``: one number per weight; ``gram``: one matrix per linear layer's input;
            ``second_moments``: an optimizer's, one number per weight; ``raw``: coefficients that
            were learned, a few per tensor. The last two may be made elsewhere, and then a
            manifest needs ``kind`` only.
        diagonal: whether only the diagonals of Gram matrices are stored.
        model: the folder or name that was given.
        fingerprint: of the model's checkpoint.
        data: where the examples come from.
        data_digest: sha256 over the token ids of the examples.
        examples: how many were averaged over.
        tokens: read (gram) or predicted (others), over all examples.
        max_length: of an example, in tokens.
        seed: of the draw of examples, of labels and of batches.
        batch_size: examples whose gradients were squared together (second moments).
        dtype: of the stored numbers.
        aliases: tensor names to the name under which their common statistic is stored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    evomerge: str = ""
    kind: StatisticsKind
    diagonal: bool = False
    model: str = ""
    fingerprint: str = ""
    data: dict[str, str | list[str]] = {}
    data_digest: str = ""
    examples: int = 0
    tokens: int = 0
    max_length: int = 0
    seed: int = 0
    batch_size: int | None = None
    dtype: Literal["float32"] = "float32"
    aliases: dict[str, str] = {}


class Statistics:
    """Statistics by the model's tensor names; see `open_statistics`.

    Attributes:
        folder: that holds them.
        manifest: its manifest.json.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._tensors = read_headers(folder, STEM).tensors
        self._files = MappedFiles()
        problems = [
            f"{info.file}: tensor {name} is stored as {info.dtype}, expected F32. Collect it again."
            for name, info in self._tensors.items()
            if info.dtype != "F32"
        ] + [
            f"{folder / MANIFEST}: {alias} shares the statistic of {name}, which is not there. "
            "Collect it again."
            for alias, name in manifest.aliases.items()
            if name not in self._tensors or alias in self._tensors
        ]
        if problems:
            raise CheckpointError(problems)

    @cached_property
    def names(self) -> frozenset[str]:
        """Tensors of the model that have a statistic."""
        return frozenset(self._tensors) | frozenset(self.manifest.aliases)

    def read(self, name: str) -> Tensor | None:
        """The statistic of a tensor, mapped from its file; treat it as read-only.

        Returns:
            fisher, second moments: float32 of the tensor's shape. gram: (in, in) float32 for a
            weight of (out, in), or its diagonal (in,). None where the tensor has no statistic.

        Raises:
            CheckpointError: the file is gone or damaged.
        """
        stored = self.manifest.aliases.get(name, name)
        if stored not in self._tensors:
            return None
        return self._files.read(self._tensors[stored].file, stored)


def open_statistics(
    folder: Path, *, kind: StatisticsKind | None = None, of: Checkpoint | None = None
) -> Statistics:
    """The statistics in a folder.

    Args:
        folder: holds manifest.json, and statistics.safetensors or shards with an index.
        kind: the one that is needed; None takes any.
        of: the model whose statistics they must be; None takes any.

    Raises:
        CheckpointError: missing or damaged, of another kind, or of another model.
    """
    manifest = _manifest(folder / MANIFEST)
    problems = []
    made = kind != "raw"
    if kind is not None and manifest.kind != kind:
        problems.append(
            f"{folder}: holds {manifest.kind} statistics, expected {kind}. "
            + (f"Make them with evomerge statistics --kind {kind}." if made else "Name another.")
        )
    says_of_what = manifest.kind in ("fisher", "gram") or manifest.fingerprint
    if of is not None and says_of_what and manifest.fingerprint != of.fingerprint:
        problems.append(
            f"{folder}: statistics of another model, {manifest.model}, whose weights are not those "
            f"of {of.folder}. Make them of this model with evomerge statistics."
        )
    if problems:
        raise CheckpointError(problems)
    return Statistics(folder, manifest)


def _manifest(path: Path) -> Manifest:
    if not path.parent.is_dir():
        raise CheckpointError(
            f"{path.parent}: no such folder. Make it with evomerge statistics MODEL -o FOLDER."
        )
    try:
        return Manifest.model_validate(parse_object(read_bytes(path)))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: holds no {path.name}, so these are no statistics. "
            "Make them with evomerge statistics MODEL -o FOLDER."
        ) from None
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"cannot be read: {error.strerror}"
        elif isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
        raise CheckpointError(f"{path}: {reason}. Collect the statistics again.") from None
