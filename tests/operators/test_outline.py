"""What is known of operators without importing what they compute with."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evomerge import operators
from evomerge.errors import ConfigError
from evomerge.operators import describe, get, outline

FILE = '''"""A plug-in's operator."""

from typing import Literal

import no_such_package
from evomerge.operators import Bound, operator
from evomerge.kernels.stack import Stack

{words}
MOST = 2.0 * HALF


@operator(on="weights", per_source={{"weight": Bound(1.0, most=MOST)}}, paper="none")
def {name}(x: Stack, *, weight: tuple[float, ...], word: Word = "good") -> no_such_package.Merged:
    """Something of the weights."""
    return no_such_package.merged(x, weight, word)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a plug-in."""
    monkeypatch.setattr(operators, "__path__", [*operators.__path__, str(tmp_path)])
    return tmp_path


def test_an_operator_of_a_plug_in_is_outlined_without_its_packages(folder: Path) -> None:
    words = 'Word = Literal["good", "bad"]\nHALF = 0.5'
    (folder / "ours.py").write_text(FILE.format(name="ours", words=words))
    ours = describe(outline("ours"))
    assert (ours.about, ours.text) == (
        "A plug-in's operator.",
        "Something of the weights.",
    )
    assert [(s.name, s.domain) for s in ours.settings] == [
        ("weight", "≤ 1"),
        ("word", "good, bad"),
    ]


@pytest.mark.parametrize(
    "words",
    [
        "globals().update(Word=str, HALF=0.5)",
        'TABLE = {}\nTABLE["half"] = 0.5\nWord, HALF = str, TABLE["half"]',
        'TABLE = {}\nfor key in ("half",):\n    TABLE[key] = 0.5\nWord, HALF = str, TABLE["half"]',
    ],
    ids=["names from nowhere", "a table filled line by line", "a table filled in a loop"],
)
def test_an_operator_that_is_declared_in_another_way_is_imported(
    words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "no_such_package", SimpleNamespace(Merged=object))
    monkeypatch.delitem(sys.modules, "evomerge.operators.theirs", raising=False)
    outline.cache_clear()
    (folder / "theirs.py").write_text(FILE.format(name="theirs", words=words))
    assert outline("theirs") is get("theirs")
    assert [s.kind for s in describe(outline("theirs")).settings] == ["number", "word"]


def test_an_unknown_operator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'tie'\. Did you mean 'ties'"):
        outline("tie")


def test_every_public_name_is_found_and_no_other() -> None:
    assert all(hasattr(operators, name) for name in operators.__all__)
    assert not hasattr(operators, "merge")
