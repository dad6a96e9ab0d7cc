"""Whether all of a write-ahead log can be read: SQLite leaves out what follows a damaged frame.

It does so without a word, because a commit that a kill or a power cut interrupted looks like that
too. But nothing that was committed follows an interrupted one. See sqlite.org/walformat.html.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

from evomerge.files import read_bytes

_HEADER, _FRAME = 32, 24  # bytes, of the log and before each of its pages
_BIG_ENDIAN = 1  # a bit of the magic number: how checksums are made
_WORD = 0xFFFFFFFF
_TRIES, _PAUSE_SECONDS = 5, 0.05
Sums = tuple[int, int]


def unread_commits(database: Path) -> int:
    """How many commits are in the log of a database, which nobody need have open, and are lost."""
    found = 0
    for _ in range(_TRIES):  # whoever writes may begin it anew meanwhile
        try:
            found = _count(read_bytes(Path(f"{database}-wal")), database)
        except FileNotFoundError:
            return 0
        if not found:
            return 0
        time.sleep(_PAUSE_SECONDS)
    return found


def _count(log: bytes, database: Path) -> int:
    header, order = log[:_HEADER], ">" if len(log) > 3 and log[3] & _BIG_ENDIAN else "<"
    if len(log) < _HEADER + _FRAME:
        return 0
    sums = _sums(header[:24], order, (0, 0))
    reads = header[:3] == b"\x37\x7f\x06" and sums == struct.unpack(">2I", header[24:])
    # those of this log, where frames of a former one may follow
    salts = header[16:24] if reads else log[_HEADER + 8 : _HEADER + 16]
    step = _FRAME + (struct.unpack(">I", header[8:12])[0] if reads else _page_bytes(database))
    found = 0
    for start in range(_HEADER, len(log) - step + 1, step):
        frame, page = log[start : start + _FRAME], log[start + _FRAME : start + step]
        if reads:
            sums = _sums(page, order, _sums(frame[:8], order, sums))
            reads = frame[8:16] == salts and sums == struct.unpack(">2I", frame[16:])
        if not reads:
            found += frame[8:16] == salts and any(frame[4:8])  # a commit tells how many pages
    return found


def _sums(data: bytes, order: str, sums: Sums) -> Sums:
    first, second = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for left, right in zip(words, words, strict=True):
        first = (first + left + second) & _WORD
        second = (second + right + first) & _WORD
    return first, second


def _page_bytes(database: Path) -> int:
    with database.open("rb") as stream:
        found: int = struct.unpack(">H", stream.read(18)[16:])[0]
    return 65536 if found == 1 else found
