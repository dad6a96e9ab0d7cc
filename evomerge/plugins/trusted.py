"""Texts that name code and that this user has run, or trusts: known by their digests alone.

Each is an empty file of the user's in ``$XDG_STATE_HOME/evomerge/trusted``, or ``~/.local/state``.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path


def remember(text: str) -> None:
    """Keep that this user has run or trusts a text; where nothing can be kept, do nothing."""
    with suppress(OSError, RuntimeError):  # a full disk, no home
        path = _mark(text)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def is_known(text: str) -> bool:
    """Whether this user has made `remember` keep a text."""
    try:
        return _mark(text).lstat().st_uid == os.geteuid()
    except (OSError, RuntimeError):
        return False


def _mark(text: str) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # as its specification has it
        state = Path("~/.local/state").expanduser()
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return state / "evomerge" / "trusted" / digest
