"""One writer per run folder, however the last one died."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from evomerge.errors import RunError
from evomerge.files import read_bytes
from evomerge.store.records import to_json, utc_now


class WriterLock:
    """The right to write to a run, held until `release` or the end of the process.

    ``run.lock`` is what the operating system locks; it frees the lock of a process that was
    killed. ``run.lock.json`` only says who holds it.

    Raises:
        RunError: another process, or another store of this one, has it.
    """

    def __init__(self, folder: Path) -> None:
        self._note = folder / "run.lock.json"
        self._lock = FileLock(folder / "run.lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise RunError(
                f"{folder} is in use by {_holder(self._note)}. Wait for it to end, or stop it."
            ) from None
        try:
            _write(self._note)
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        """Let the next writer in."""
        with contextlib.suppress(OSError):  # a note left behind misleads nobody: no lock, no look
            self._note.unlink(missing_ok=True)
        self._lock.release()


def _write(note: Path) -> None:
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since_utc": utc_now()}
    new = note.with_suffix(".new")
    new.write_text(to_json(who), encoding="utf-8")
    new.replace(note)  # whoever is refused reads all of it or none


def _holder(note: Path) -> str:
    try:
        who: Any = json.loads(read_bytes(note))
        return f"process {who['pid']} on {who['host']} since {who['since_utc']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
