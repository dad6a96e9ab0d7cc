"""Damaged model files, each a function of a file and a number: flipped bits, cuts, wrong values."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, "", "x", "3", [], {}, [None], [1, 2], {"a": 1}),
    *(2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**12, 10**30, 10**400, 1e308, 1e-308, 5e-324),
    *(float("inf"), float("-inf"), float("nan"), [2**63, 0], [-1], [0], [[1]], ["x"], [[[[]]]]),
    *("\ud800", "\0", "\x1b]0;title\x07", "é" * 50, "a" * 5000, "../../etc/passwd", "LlamaModel"),
    *("float32", "bert", "gpt2", "llama", "mixtral", "org/name", "model.safetensors", {"": {}}),
    *({"rope_type": "yarn"}, {"model_type": "llama"}, "{{ x", "{% if x %}", "9" * 300),
)
_NAMES = (
    "x",
    "",
    "model.layers.0.mlp.up_proj.weight",
    "r",
    "model_type",
    "__metadata__",
    "auto_map",
)
_DEEP = b"[" * 1000 + b"]" * 1000

Path_ = tuple[Any, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def changed_values(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy with one value, or a few, replaced, removed, renamed or moved."""
    content = deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = list(places(content))
        if not found:
            return content
        # keys near the top decide most
        path = rng.choice([p for p in found if len(p) < 3] if rng.random() < 0.7 else found)
        place = content
        for key in path[:-1]:
            place = place[key]
        kind = rng.randrange(6)
        if kind == 0:
            del place[path[-1]]
        elif kind == 1 and isinstance(place, dict):
            place[rng.choice(_NAMES)] = place.pop(path[-1])
        elif kind == 2 and isinstance(place[path[-1]], int | float) and _is_float(place[path[-1]]):
            place[path[-1]] *= rng.choice((-1, 2, 3, 0.5, 1000))
        else:
            place[path[-1]] = deepcopy(rng.choice(NASTY))
    return content


def _is_float(number: float) -> bool:
    return abs(number) < 1e308


def damaged_text(text: bytes, rng: random.Random) -> bytes:
    """The bytes cut, or with flipped bits, or with bytes put in."""
    data = bytearray(text)
    kind = rng.randrange(7)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if kind == 1:
        return rng.choice((b"", b"null", b"3", b"[]", b"{}", _DEEP, b"\xff\xfe", b"\xef\xbb\xbf{}"))
    if kind == 2:
        at = rng.randrange(len(data) + 1)
        put = rng.choice(
            (b"\0", b"\xff", b"{", b'"', b"9" * 5000, _DEEP, b"\xe9", b"\\ud800", b",")
        )
        return bytes(data[:at] + put + data[at:])
    if kind == 3 and b"{" in data:  # a key given twice
        at = data.index(b"{") + 1
        inner = data[at : data.rindex(b"}")] if b"}" in data else data[at:]
        return bytes(data[:at] + inner + b"," + data[at:])
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def damaged_json(text: bytes, rng: random.Random) -> bytes:
    """A JSON file with other values, or damaged as any text."""
    if rng.random() < 0.3:
        return damaged_text(text, rng)
    return json.dumps(changed_values(json.loads(text), rng)).encode()


def damaged_weights(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header, or cut."""
    length = int.from_bytes(data[:8], "little")
    header, values = data[8 : 8 + length], data[8 + length :]
    kind = rng.randrange(5)
    if kind == 0:
        return data[: rng.randrange(len(data))] + rng.choice((b"", b"", bytes(9)))
    if kind == 1:
        wrong = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return wrong.to_bytes(8, "little") + data[8:]
    if kind == 2:
        header = damaged_text(header, rng)
    elif kind == 3:
        header = json.dumps(changed_values(json.loads(header), rng)).encode()
    else:
        flipped = bytearray(header)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return data[:8] + bytes(flipped) + values
    return len(header).to_bytes(8, "little") + header + values


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


ODD: tuple[Callable[[Path], None], ...] = (
    os.mkfifo,
    _socket,
    Path.mkdir,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to(path.name),
)


def damage(path: Path, number: int) -> None:
    """Replace a file by a damaged one; the same number gives the same."""
    rng = random.Random(f"{path.parent.name} {path.name} {number}")
    data = path.read_bytes()
    if rng.random() < 0.05:
        path.unlink()
        rng.choice(ODD)(path)
    elif path.suffix == ".safetensors":
        path.write_bytes(damaged_weights(data, rng))
    elif path.suffix == ".json":
        path.write_bytes(damaged_json(data, rng))
    else:
        path.write_bytes(damaged_text(data, rng))
