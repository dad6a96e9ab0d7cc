from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError, ConfigError, OutputError
from evomerge.files import (
    parse_object,
    read_object,
    read_text,
    require_regular,
    umask,
    write_text,
)
from evomerge.yaml_files import read_yaml


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # an address has at most 108 characters


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


ODD: dict[str, Callable[[Path], None]] = {
    "a named pipe": a_pipe,
    "a socket": a_socket,
    "a device": a_device,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
def test_only_files_are_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    ODD[kind](path)
    with pytest.raises(OSError, match=f"it is {kind}, not a file"):
        require_regular(path)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}: cannot be read: it is {kind}, not a file"
    with pytest.raises(
        CheckpointError, match=f"cannot be read: it is {kind}, not a file. Copy it."
    ):
        read_object(path, CheckpointError, "Copy it.")


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link", ConfigError) == "words"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "No such file or directory"),
        ("null\0byte", "embedded null byte"),
        ("loop", "Too many levels of symbolic links"),
        ("n" * 300, "File name too long"),
        ("latin", "not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=f"cannot be read: {reason}$"):
        read_text(tmp_path / name, ConfigError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"a": ' + "[" * 1000 + "]" * 1000 + "}", "nested deeper than 100 levels"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested deeper than 100 levels"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON: Exceeds the limit"),
        (r'{"a": "\ud800"}', "half of a character"),
    ],
)
def test_json_that_no_model_has_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_object(text.encode())


def test_all_other_json_objects_are_read() -> None:
    deep = "[" * 98 + "1" + "]" * 98
    text = f'{{"a": {deep}, "b": "\\ud83d\\ude00", "c": 1e400, "c": 12345678901234567890}}'
    found = parse_object(text.encode())
    assert (found["b"], found["c"]) == ("\N{GRINNING FACE}", 12345678901234567890)


def test_a_file_is_written_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_text(path, "one")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    path.chmod(0o640)
    write_text(path, "two é")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == ("two é".encode(), 0o640)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "text"


@pytest.mark.parametrize("name", ["missing/other", ".", "f" * 300, "loop", "half \udcff"])
def test_what_cannot_be_written_is_named_and_what_was_there_stays(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path, text = tmp_path / name, "text"
    if "half" in name:  # the text, not the name
        path, text = tmp_path / "file", name
        path.write_text("before")
    with pytest.raises(OutputError, match=re.escape(f"{path}: cannot be written: ")):
        write_text(path, text)
    assert path.name != "file" or path.read_text() == "before"
    assert {one.name for one in tmp_path.iterdir()} <= {"loop", "file"}


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("before")
    code = f"""
import resource, signal
from pathlib import Path
from evomerge.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path({str(path)!r}), "x" * 10_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert f"OutputError: {path}: cannot be written: File too large" in done.stderr
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "before")]


def test_a_device_is_written_as_it_is() -> None:
    write_text(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
