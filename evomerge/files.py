"""Files that a person names or that lie in a folder of theirs, read and written without surprises.

Only regular files are opened: a named pipe in place of one would be waited for without an end.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, InputError, OutputError, shown

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_DEEPEST = 100  # levels of a JSON file; Transformers' own have fewer than ten


def absolute(written: str | Path, folder: Path) -> Path:
    """The path made absolute, seen from ``folder``; ``~`` and links are followed.

    Raises:
        ConfigError: no path: an unknown user behind ``~``, links in a circle, too long a name.
    """
    try:
        path = (folder / Path(written).expanduser()).resolve()
        path.is_symlink()  # looks at the name: one that is too long is no missing file
        return path
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition(":")[0].rstrip(".")
        raise ConfigError(f"{shown(str(written))}: not a path: {reason}. Check it.") from None


def require_regular(path: Path) -> None:
    """Raise for a path that cannot be opened as a file, before it is.

    Raises:
        OSError: nothing is there, or something else than a file; ``strerror`` says what.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null byte in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_bytes(path: Path) -> bytes:
    """What a file holds.

    Raises:
        OSError: as `require_regular`, and where the file cannot be read.
    """
    require_regular(path)
    return path.read_bytes()


def read_text(path: Path, error: type[InputError]) -> str:
    """The text in a UTF-8 file.

    Args:
        error: what is raised.

    Raises:
        InputError: no such file, something else than a file, or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}") from None


def read_object(path: Path, error: type[InputError], cure: str = "") -> dict[str, Any]:
    """The keys and values in a JSON file; of a key given twice the last counts.

    Args:
        error: what is raised.
        cure: a sentence at the end of what is raised.

    Raises:
        InputError: cannot be read, not JSON, no object at the top, nested deeper than any file of
            a model is, or half of a character in a text, which cannot be written again.
    """
    try:
        return parse_object(read_bytes(path))
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}. {cure}".rstrip()) from None
    except ValueError as problem:
        raise error(f"{path}: {problem}. {cure}".rstrip()) from None


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object that UTF-8 text holds.

    Raises:
        ValueError: as `read_object`; a phrase without a place.
    """
    decoded = text.decode("utf-8")
    try:
        content = json.loads(decoded)
    except RecursionError:
        raise ValueError(f"nested deeper than {_DEEPEST} levels") from None
    except ValueError as problem:
        raise ValueError(f"not valid JSON: {problem}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    if _depth(content) > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    if "\\ud" in decoded or "\\uD" in decoded:
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a character (a lone surrogate)") from None
    return content


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave what was there: under another name first, then renamed.

    Raises:
        OutputError: it cannot be written, e.g. a full disk.
    """
    partial: Path | None = None
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, say; a folder fails
            path.write_text(text, encoding="utf-8")
            return
        whole = path.resolve()  # a link stays one
        mode = whole.stat().st_mode if whole.exists() else 0o666 & ~umask()
        descriptor, name = tempfile.mkstemp(prefix=f".{whole.name[:200]}.", dir=whole.parent)
        partial = Path(name)
        os.close(descriptor)
        partial.write_text(text, encoding="utf-8")
        partial.chmod(stat.S_IMODE(mode))  # mkstemp makes private files
        partial.replace(whole)
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written: {reason}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that this process does not give to what it makes."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _depth(content: Any) -> int:
    """Levels of lists and objects; no further than is needed to say that there are too many."""
    level, depth = [content], 0
    while level and depth <= _DEEPEST:
        inner = [value for value in level if isinstance(value, dict | list) and value]
        level = [
            item
            for value in inner
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        depth += 1
    return depth


def _reason(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or "not UTF-8 text"
