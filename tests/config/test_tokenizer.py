"""Searches among models whose tokenizers differ: what is refused, with a cure that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.load import load
from evomerge.errors import ConfigError

Tiny = Callable[..., Path]
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = tuple(f"w{number}" for number in range(36))


def keys(tmp_path: Path, base: Path, **sources: Path) -> dict[str, Any]:
    (tmp_path / "code.py").write_text("def s(module, split):\n    return [1.0]\n")
    t = {"t": {"low": 0, "high": 1}}
    return {
        "name": "x",
        "base": str(base),
        "sources": {name: str(path) for name, path in sources.items()},
        "space": {"kind": "parameter", "operator": "slerp", "parameters": t},
        "fitness": {"tasks": {"one": {"scorer": f"{tmp_path}/code.py:s"}}},
        "optimizer": "random",
        "budget": {"evaluations": 3},
    }


def test_mixed_rows_are_refused_and_the_cure_works(tiny: Tiny, tmp_path: Path) -> None:
    content = keys(tmp_path, tiny(), a=tiny(1, words=(*SPECIAL, *reversed(WORDS))))
    with pytest.raises(ConfigError, match=r"36 tokens stand in other rows.* Set tokenizer: base"):
        load(content)
    (note,) = load({**content, "tokenizer": "base"}).notes
    assert note.endswith("its rows are matched by token string.")


def test_rows_beyond_the_bases_are_a_note(tiny: Tiny, tmp_path: Path) -> None:
    content = keys(tmp_path, tiny(), a=tiny(1, words=(*SPECIAL, *WORDS, "<|im_end|>")))
    (note,) = load(content).notes
    assert note.startswith("a: 1 row beyond the base's 40 left out: '<|im_end|>' at row 40; ")
