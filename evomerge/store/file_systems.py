"""On which file system a run lies: on some, other machines may have its file open."""

from __future__ import annotations

from pathlib import Path

# Linux's own account of what is mounted; see proc(5). Other systems have none.
MOUNTS = Path("/proc/self/mountinfo")

# On these, all who open a file share its pages in memory. On nfs, nfs4, cifs, smb3, lustre, beegfs,
# gpfs, ceph, 9p, virtiofs and fuse.* they may not: another machine may have it open.
_LOCAL = (
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "reiserfs"),
    *("tmpfs", "ramfs", "overlay"),
)


def is_local(folder: Path) -> bool:
    """Whether no other machine can have the folder's files open; False where that is not known."""
    return file_system(folder) in _LOCAL


def file_system(folder: Path) -> str | None:
    """The type of the file system, e.g. ``ext4`` or ``nfs4``; None if it is not known."""
    real = folder.resolve()
    real.stat()  # mounts what is mounted on demand
    try:
        lines = MOUNTS.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    nearest, depth = None, 0
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split(" ")[4]))
        # what is mounted later hides what was mounted there before
        if len(point.parts) >= depth and real.is_relative_to(point):
            nearest, depth = after.split(" ")[0], len(point.parts)
    return nearest


def _unescaped(text: str) -> str:
    """A path in which blanks, tabs, ends of lines and backslashes were written in octal."""
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
