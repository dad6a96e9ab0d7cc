"""References to models: what a person writes, and the folder that it stands for."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.files import absolute

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
# endings of files with weights, and of what comes in their place or besides
WEIGHT_FORMATS = frozenset(
    (
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy"),
        *(".npz", ".h5", ".keras", ".msgpack", ".ot", ".pb", ".tflite", ".onnx", ".onnx_data"),
        *(".data", ".gguf", ".ggml", ".llamafile", ".nemo", ".pte", ".mlmodel", ".engine"),
        *(".distcp", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z"),
    )
)
SAFETENSORS = (".safetensors",)
PICKLES = (".bin", ".pt", ".pth")
# on the hub: what shows the model
_NOT_FILES = (
    *("consolidated*", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp"),
    *("*.svg", "*.pdf", "*.mp3", "*.mp4", "*.wav", "*.parquet", "*.arrow"),
)


def anchor(reference: str, folder: Path) -> str:
    """The reference with a relative folder made absolute, seen from ``folder``.

    A relative folder that exists wins over a hub name of the same spelling.

    Raises:
        ConfigError: no path.
    """
    local = absolute(reference, folder)
    return str(local) if local.exists() or hub_name(reference) is None else reference


def hub_name(reference: str) -> str | None:
    """``org/name`` without the revision, or None where the reference is a folder."""
    if not _HUB.fullmatch(reference) or reference.startswith("."):
        return None
    return reference.partition("@")[0]


def left_out(formats: Collection[str]) -> list[str]:
    """Patterns of files on the hub: the same weights in other formats, other models below.

    Layers of sentence-transformers lie in folders that begin with their number.
    """
    others = sorted(WEIGHT_FORMATS.difference(formats))
    below = [f"[!0-9]*/*{ending}" for ending in formats]
    return [*(f"[!0-9]*{ending}" for ending in others), *below, *_NOT_FILES]


def resolve(reference: str, formats: Collection[str] = SAFETENSORS) -> Path:
    """The folder of a model: itself, or the hub's snapshot, downloaded once.

    Args:
        reference: a folder, or ``org/name[@revision]``.
        formats: endings of the files with weights.

    Raises:
        CheckpointError: no such folder, and the hub does not give such a model.
    """
    folder = Path(reference)
    if folder.is_dir():
        return folder
    name = hub_name(reference)
    if name is None:
        raise CheckpointError(f"{reference}: no such folder. Check the path.")
    revision = reference.partition("@")[2]
    from huggingface_hub import snapshot_download  # a second to import, for hub names only
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = snapshot_download(name, revision=revision or None, ignore_patterns=left_out(formats))
        return Path(path)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: {reason} "
            "Check the name, or download the model and give its folder."
        ) from None
