"""What is a machine's fault and no candidate's: a full disk, a lost mount, no more files to open.

Such an error says so by the number that the operating system gave it, or, where a library has made
text of that, by its text. It is looked for in an error and in all that led to it. The text of an
error about a value is not: it quotes what it was given, which may be a model's answer. Nor is what
a traceback within a text says of such an error; workers of a pool send theirs as text.

Not among them are a file that is not there and one that may not be read: a scorer's own mistake
looks the same. Nor is memory that ran out: the next candidate may fit.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor

from evomerge.errors import OutputError

_ROOM = "Make room on the disk"
_FILES = "Allow more open files (`ulimit -n`)"
_PROCESSES = "Allow more processes (`ulimit -u`), and see what ended those of the scorer"
_DISK = "Check the disk, and what is mounted"
_NETWORK = "Check the network"
# by the names of `errno`, of which each system has its own
_BY_CURE = {
    _ROOM: ("ENOSPC", "EDQUOT", "EFBIG"),
    _FILES: ("EMFILE", "ENFILE"),
    _DISK: (
        *("EIO", "EROFS", "ESTALE", "ENODEV", "ENXIO", "ENOMEDIUM", "EREMOTEIO", "EUCLEAN"),
        *("EBADMSG", "ENOLCK", "EHWPOISON"),
    ),
    _NETWORK: (
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN"),
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ESHUTDOWN", "ETIMEDOUT", "ENOBUFS"),
        *("EADDRNOTAVAIL", "ENONET", "ENOLINK", "ECOMM"),
    ),
}
_CURES = {
    getattr(errno, name): cure
    for cure, names in _BY_CURE.items()
    for name in names
    if hasattr(errno, name)
}
# What libraries say instead of the system's words.
_SIGNS = {
    "PytorchStreamWriter failed writing": _ROOM,
    "] . unexpected pos ": _ROOM,  # torch.save where less was written than it wrote
    "disk is full": _ROOM,  # SQLite
    "disk I/O error": _DISK,  # SQLite
    "No usable temporary directory found": _DISK,
    "can't start new thread": _PROCESSES,
    "DataLoader worker (pid": _PROCESSES,  # that ended, not one that raised
    **{os.strerror(number): cure for number, cure in _CURES.items()},
}
# What torch, C++, the loader of shared libraries and Python say where memory has run out.
_SIGNS_OF_MEMORY = (
    *("DefaultCPUAllocator", "out of memory", "std::bad_alloc", "Cannot allocate memory"),
    *("failed to map segment from shared object", "can't start new thread", "Unable to allocate"),
)
# The last is about a program and what was given to it.
_OF_VALUES = (
    *(ValueError, TypeError, LookupError, AssertionError, ArithmeticError, AttributeError),
    subprocess.SubprocessError,
)
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^(?: *\| )*([\w.]+): (.*)$", re.MULTILINE)  # `| ` in a group
# Also a read that would wait and a lock that another has end with EAGAIN.
_STARTING = ("fork", "spawn", "thread")
_NUMBER = re.compile(r"(?:os error|\[Errno) (\d+)")  # Rust's words, and Python's


def cure_for_machine(error: BaseException) -> str | None:
    """What to do about the machine's fault that is behind an error; None where none is known.

    Returns:
        The beginning of a sentence, without a full stop.
    """
    return next(filter(None, map(_cure, _all_behind(error))), None)


def memory_ran_out(error: BaseException) -> bool:
    """Whether memory, or threads, of which each takes some, ran out behind an error."""
    return any(
        isinstance(one, MemoryError)
        # what CPython raises where an allocation failed without an error of its own
        or (isinstance(one, SystemError) and address_space_limit() is not None)
        or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
        or any(sign in _text(one) for sign in _SIGNS_OF_MEMORY)
        for one in _all_behind(error)
    )


def address_space_limit() -> int | None:
    """How many bytes of address space this process may have; None where that is not limited."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _all_behind(error: BaseException) -> Iterator[BaseException]:
    """An error, and all that caused it or were being handled when it was raised."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += [e for e in (one.__cause__, one.__context__, *inner) if e is not None]


def _cure(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _CURES:
        return _CURES[error.errno]
    if isinstance(error, ConnectionError | socket.gaierror) and not isinstance(
        error, BrokenPipeError
    ):
        return _NETWORK
    if isinstance(error, BrokenExecutor):
        return _PROCESSES
    text = _text(error)
    if _no_process(error, text):
        return _PROCESSES
    numbers = (_CURES.get(int(number)) for number in _NUMBER.findall(text))
    signs = (cure for sign, cure in _SIGNS.items() if sign.lower() in text.lower())
    found = next(filter(None, (*numbers, *signs)), None)
    return _DISK if found is None and isinstance(error, OutputError) else found


def _no_process(error: BaseException, text: str) -> bool:
    """Whether it is EAGAIN of what starts a process or a thread."""
    again = f"[Errno {errno.EAGAIN}]", f"os error {errno.EAGAIN})", os.strerror(errno.EAGAIN)
    if not (isinstance(error, BlockingIOError) or any(sign in text for sign in again)):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = frames[-1].f_code.co_names if frames else ()
    words = " ".join([text, *called])
    return any(sign in words for sign in _STARTING)


def _text(error: BaseException) -> str:
    """All that an error says for itself: also notes, and what a program wrote that ended with one.

    Empty, but for notes and what was written, where it is about a value.
    """
    written = getattr(error, "stderr", None)
    said = written.decode(errors="replace") if isinstance(written, bytes) else str(written or "")
    own = "" if isinstance(error, _OF_VALUES) else str(error)
    return "\n".join(map(_without_values, [own, *getattr(error, "__notes__", ()), said]))


def _without_values(text: str) -> str:
    """A text, of whose traceback, if it has one, is left what errors say that are of no values."""
    before, sign, quoted = text.partition(_TRACEBACK)
    if not sign:
        return text
    said = (words for name, words in _RAISED.findall(quoted) if _is_of_no_value(name))
    return "\n".join([before, *said])


def _is_of_no_value(name: str) -> bool:
    """Whether it is the name of an error that is known here, and about no value."""
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), kind, None)
    return isinstance(found, type) and not issubclass(found, _OF_VALUES)
