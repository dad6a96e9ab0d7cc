"""Output folders that appear under their name only when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import InputError, OutputError


def require_free(out: Path) -> None:
    """Refuse an output folder that is a file or is not empty.

    Raises:
        InputError: ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already. Choose another folder, or delete it.")


def require_space(partial: Path, out: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        partial: an existing folder on the disk.
        out: the folder that the message names.
        needed_bytes: to be written.

    Raises:
        OutputError: less is free.
    """
    free = shutil.disk_usage(partial).free
    if free < needed_bytes:
        raise OutputError(f"{out}: needs {needed_bytes} bytes, the disk has {free} free.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` without an error, and is deleted after one.

    Args:
        out: must not exist, or be an empty folder.

    Raises:
        OutputError: the disk is full, or ``out`` cannot be written.
    """
    new_parents = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        with _staged(out) as partial:
            yield partial
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if not out.exists():
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
