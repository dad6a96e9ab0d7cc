"""Folders that appear under their name only when they are whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import InputError, OutputError


def require_free(out: Path) -> None:
    """Refuse a folder that holds something, or a file.

    Raises:
        InputError: ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already. Choose another folder, or delete it.")


def require_space(partial: Path, out: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OutputError: less is free where ``partial`` lies than ``out`` needs.
    """
    free = shutil.disk_usage(partial).free
    if free < needed_bytes:
        raise OutputError(f"{out}: needs {needed_bytes} bytes, the disk has {free} free.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it when all went well, and vanishes otherwise.

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
