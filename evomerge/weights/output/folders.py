"""Output folders that appear when they are complete."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import InputError, OutputError
from evomerge.files import umask


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

    What is left of such a folder whose maker was killed is deleted first.

    Args:
        out: must not exist, or be an empty folder.

    Raises:
        OutputError: the disk is full, or ``out`` cannot be written.
    """
    new_parents = [parent for parent in out.absolute().parents if not parent.exists()]
    partial: Path | None = None
    lock: int | None = None
    prefix = f".{out.name}.partial-"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out.parent, prefix)
        while partial is None or not partial.exists():  # taken for abandoned before it was locked
            partial = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
            lock = _locked(partial, wait=True)
        yield partial
        partial.chmod(0o777 & ~umask())  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        if not out.exists():
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Delete the folders of this name that no living process is writing."""
    for folder in parent.iterdir():
        if folder.name.startswith(prefix) and folder.is_dir() and not folder.is_symlink():
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(folder: Path, *, wait: bool = False) -> int | None:
    """A descriptor that holds a folder until it is closed or its process ends.

    None where another process holds it, unless told to wait, and where nothing can be locked.
    """
    descriptor: int | None = None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def unwritable(path: Path, error: OSError) -> OutputError:
    """What is raised in place of an error of the disk."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}")
