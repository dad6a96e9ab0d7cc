from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import CheckpointError, ConfigError
from evomerge.files import parse_object, read_object, read_text, require_regular
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
