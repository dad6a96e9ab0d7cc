"""Folders of Ray clusters that runs start, and the removal of what killed runs left behind."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/tmp")  # noqa: S108 - short: sockets in it have paths of at most 107 bytes
_PREFIX = "evomerge-ray-"
_MARK = "EVOMERGE_RAY_FOLDER"  # a variable of all processes of a cluster that a run started


class Scratch:
    """A temporary folder for a cluster that this process starts, which no other user may enter.

    Attributes:
        folder: holds the temporary files of the workers.
        for_ray: a folder in it, which Ray opens to everybody.

    Making one also ends and removes what is left of the clusters of killed processes. Whether a
    folder's process lives shows in a lock on the folder, which the system frees with the process;
    its number may be another's by then, or of another container.
    """

    def __init__(self) -> None:
        _sweep()
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_ROOT))
            self._lock = os.open(self.folder, os.O_RDONLY)  # no child inherits it
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.folder.exists():
                self.for_ray = self.folder / "r"  # short, as _ROOT
                return
            os.close(self._lock)  # another run swept it away before it was locked

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Mark all processes that are started meanwhile as belonging to this folder."""
        os.environ[_MARK] = str(self.folder)
        try:
            yield
        finally:
            del os.environ[_MARK]

    def remove(self) -> None:
        """Remove it, and folders of killed runs that Ray's last processes have made again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        _sweep()


def keep_token_private() -> None:
    """Make Ray's token for clusters that programs start unreadable for others.

    Ray writes it to the home folder, for all to read, when it starts the first one.
    """
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # Ray says what is wrong with it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=path.parent)  # private; whole as soon as it is there
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(new, path)
        Path(new).unlink()
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _sweep() -> None:
    """End and remove what is left of clusters whose driver was killed.

    Ray's agents would end by themselves, but only after trying to reach the driver for a minute.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or gone
            variables = (process / "environ").read_bytes().split(b"\0")
            for value in (v[len(_MARK) + 1 :] for v in variables if v.startswith(_MARK.encode())):
                # as the process sees it, which may be in a container
                if _deserted(process / "root" / os.fsdecode(value).lstrip("/")):
                    os.kill(int(process.name), signal.SIGKILL)
    for folder in _ROOT.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            _deserted(folder, remove=True)


def _deserted(folder: Path, *, remove: bool = False) -> bool:
    """Whether no process holds the lock of a folder.

    Args:
        remove: remove the folder then.

    Raises:
        OSError: the folder belongs to another user.
    """
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
