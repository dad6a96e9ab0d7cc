"""From what a person writes for a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from evomerge.errors import CheckpointError

_HUB = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def anchor(reference: str, folder: Path) -> str:
    """The reference with a relative folder made absolute, seen from ``folder``.

    A relative folder that exists wins over a hub name of the same spelling.
    """
    local = (folder / Path(reference).expanduser()).resolve()
    if local.exists() or not _HUB.match(reference) or reference.startswith("."):
        return str(local)
    return reference


def resolve(reference: str) -> Path:
    """The folder of a model: itself, or the hub's snapshot, downloaded once.

    Args:
        reference: a folder, or ``org/name[@revision]``.

    Raises:
        CheckpointError: no such folder, and no such model that can be had.
    """
    folder = Path(reference)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or not _HUB.match(reference):
        raise CheckpointError(f"{reference}: no such folder")
    name, _, revision = reference.partition("@")
    from huggingface_hub import snapshot_download  # imports requests: seconds
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: {reason}"
        ) from None
