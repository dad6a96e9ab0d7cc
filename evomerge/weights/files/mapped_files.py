"""Tensors that are mapped from safetensors files and read where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from evomerge.errors import CheckpointError, SourceChangedError
from evomerge.files import require_regular
from evomerge.weights.files.bus_errors import explain_bus_errors
from evomerge.weights.files.model_files import PUT_BACK

if TYPE_CHECKING:
    from torch import Tensor


class MappedFiles:
    """Tensors mapped from safetensors files, each file opened once."""

    def __init__(self) -> None:
        self._handles: dict[Path, Any] = {}
        self._sizes: dict[Path, int] = {}

    def forget(self) -> None:
        """Open every file again when it is read next."""
        self._handles.clear()
        self._sizes.clear()

    def read(self, file: Path, name: str) -> Tensor:
        """A tensor of a file; treat it as read-only.

        Raises:
            CheckpointError: the file is gone or damaged.
            SourceChangedError: it has another length than when it was opened.
        """
        try:
            size = file.stat().st_size
            if file not in self._handles:
                explain_bus_errors()  # of a file that is cut after the next look at its size
                require_regular(file)
                self._handles[file] = safe_open(file, framework="pt")
                self._sizes[file] = size
            if size != self._sizes[file]:  # reading beyond its end would end the process
                raise SourceChangedError(
                    f"{file}: has {size} bytes, and had {self._sizes[file]} when it was opened. "
                    f"{PUT_BACK}"
                )
            tensor: Tensor = self._handles[file].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from None
        return tensor
