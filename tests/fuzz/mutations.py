"""Mutated YAML, each a function of its texts and a number: what people mistype, and worse."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from types import FrameType
from typing import Any

import yaml

TIMES = int(os.environ.get("FUZZ", "1"))  # `make fuzz` tries ten times as many cases

NASTY = (
    *(
        "null",
        "~",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2",
        "1e3",
        "0.5",
        "-0.0",
        "''",
        "x",
        "[]",
        "{}",
    ),
    *("1e308", "-1e308", "5e-324", "1e999", ".inf", "-.inf", ".nan", "4294967296", "1e-400"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809"),
    *("1" + "0" * 320, "9" * 5000, "0b" + "1" * 3000, "1_000", "010", "0o10", "1:30", "0x_"),
    *("2024-13-45", "2024-01-05", "2024-01-05T10:00:00Z", "no", "=", "<<", "@", "%", "`", "!"),
    *("!!int x", "!!float x", "!!bool x", "!!null x", "!!binary aGk=", "!!binary '%'", "!!set {a}"),
    *("!!omap [a: 1]", "!!timestamp x", "!!str 1", "!own 1", "!!python/object:os.system {}"),
    *("[" * 1000 + "]" * 1000, "{a: " * 90 + "1" + "}" * 90, "[" * 60 + "]" * 60),
    *("&q [*q]", "&q {a: *q}", "*nobody", "{<<: {a: 1}}", "{<<: [{a: 1}, {a: 2}]}", "{<<: 3}"),
    *('"\\0"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\e]0;title\\a"', '"\\r\\n"', "'\u202e'", "'é'"),
    *("~nosuchuser", "loop", "loop/x", "fifo", "/dev/zero", "/", ".", "..", "''", "a" * 300),
    *("a/" * 200, "org/name", "org/name@rev", "//", "a+b", "stage:x", "base", "union", "auto"),
    *("{1: 2}", "{null: 1}", "{[1]: 2}", "{? {a: 1} : 2}", "[null]", "[{}]", "[[]]", "[[1, 2]]"),
    *("[0, 1]", "[1, 0]", "[-1, 3]", "[0, 999999999999]", "[true, 2]", "['0', 1]", "[0.0, 1.5]"),
    *("{low: 0, high: 1}", "{low: 1, high: 0}", "{low: .nan, high: 1}", "{choices: [a]}"),
    *(
        "{low: -1e308, high: 1e308}",
        "{low: 0, high: 1, kind: int}",
        "{low: 1e-30, high: 1, scale: log}",
    ),
    *("{filter: mlp, value: 1}", "[{filter: '', value: 0.5}]", "[{value: .nan}]", "{value: {}}"),
    *("{source: base}", "{kind: zero}", "{kind: model_token, model: x, token: y}", "cmaes", "ties"),
)
_OTHER_WORDS = ("weight", "density", "t", "name", "kind", "model", "models", "base", "x", "", "<<")

Path = tuple[Any, ...]


class Mutator:
    """Makes the case of a number from some YAML texts.

    Args:
        texts: valid YAML, each of one document or several.
        nasty: values to put anywhere, as they are written.
    """

    def __init__(self, texts: Sequence[str], nasty: Sequence[str] = NASTY) -> None:
        self.texts, self.nasty = list(texts), nasty
        self.contents = [list(yaml.safe_load_all(text)) for text in texts]

    def case(self, number: int) -> bytes:
        """The text of a case; every hundredth is a valid one as it is."""
        rng = random.Random(number)
        index = rng.randrange(len(self.texts))
        if number % 100 == 0:
            return self.texts[index].encode()
        documents = deepcopy(self.contents[index])
        raw: list[str] = []
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            self._change(rng.choice(documents), rng, raw)
        flow = rng.random() < 0.3
        written = yaml.safe_dump_all(
            documents, sort_keys=False, default_flow_style=flow, allow_unicode=True, width=10**6
        )
        written = re.sub(r"'?@(\d+)@'?", lambda found: raw[int(found[1])], written)
        if rng.random() < 0.2:
            return self._scribble(written, rng)
        return written.encode(errors="surrogatepass")

    def _change(self, document: Any, rng: random.Random, raw: list[str]) -> None:
        """Change one place of a document; values as they are written go to ``raw``."""
        places = list(_places(document, ()))
        if not places:
            return
        *above, key = rng.choice(places)
        owner = document
        for step in above:
            owner = owner[step]
        action = rng.choice(
            ("nasty", "nasty", "nasty", "delete", "rename", "splice", "wrap", "swap")
        )
        if action == "nasty":
            raw.append(rng.choice(self.nasty))
            owner[key] = f"@{len(raw) - 1}@"
        elif action == "delete":
            del owner[key]
        elif action == "rename" and isinstance(owner, dict):
            word = rng.choice((*_OTHER_WORDS, f"{key}s", str(key)[:-1], str(key).upper()))
            kept = list(owner.items())
            owner.clear()
            owner.update({word if name == key else name: value for name, value in kept})
        elif action == "splice":
            other = rng.choice(rng.choice(self.contents))
            inner = list(_places(other, ()))
            for step in rng.choice(inner) if inner else ():
                other = other[step]
            owner[key] = deepcopy(other)
        elif action == "wrap":
            owner[key] = rng.choice(([owner[key]], {"x": owner[key]}, [owner[key]] * 3))
        else:
            second = rng.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
            owner[key], owner[second] = owner[second], owner[key]

    def _scribble(self, text: str, rng: random.Random) -> bytes:
        """The text with lines or bytes changed."""
        lines = text.splitlines(keepends=True) or [""]
        at = rng.randrange(len(lines))
        changes: dict[str, Callable[[], None]] = {
            "twice": lambda: lines.insert(at, lines[at]),
            "gone": lambda: lines.__delitem__(at),
            "indented": lambda: lines.__setitem__(at, f" {lines[at]}"),
            "tab": lambda: lines.__setitem__(at, f"\t{lines[at]}"),
            "cut": lambda: lines.__setitem__(slice(at, None), [lines[at][: len(lines[at]) // 2]]),
            "anchor": lambda: lines.__setitem__(at, lines[at].replace(": ", ": &a ", 1)),
            "alias": lambda: lines.__setitem__(at, re.sub(r": .*", ": *a", lines[at], count=1)),
            "document": lambda: lines.insert(at, "---\n"),
        }
        changes[rng.choice(list(changes))]()
        data = bytearray("".join(lines).encode())
        if rng.random() < 0.3 and data:
            for _ in range(rng.choice((1, 3, 30))):
                data[rng.randrange(len(data))] = rng.choice(
                    (rng.randrange(256), *b"{}[]:-'\"&*!|>%@#")
                )
        return bytes(data)


def _near(value: Any, rng: random.Random) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, value - 1, value * 2, value / 2, -value, value * 1e6, 0))
    if isinstance(value, list):
        return rng.choice((value[1:], value[:-1], value[::-1], value + value[:1]))
    if isinstance(value, dict):
        return dict(rng.sample(list(value.items()), len(value)))
    return value


def _places(value: Any, path: Path) -> list[Path]:
    """The path of every value inside a document."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return []
    return [p for key, inner in items for p in ((*path, key), *_places(inner, (*path, key)))]


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise where the body has not ended after some seconds."""

    def hung(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
