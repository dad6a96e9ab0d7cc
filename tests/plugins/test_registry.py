"""Components found by the names of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

import evomerge.engines
from evomerge.plugins import registry


def test_a_plug_in_is_known_also_after_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "abacus" not in registry.names("engines")
    (tmp_path / "abacus.py").touch()
    monkeypatch.setattr(evomerge.engines, "__path__", [*evomerge.engines.__path__, str(tmp_path)])
    assert "abacus" in registry.names("engines")


def test_a_file_with_an_underscore_is_no_component() -> None:
    assert (Path(evomerge.engines.__file__).parent / "_stacks.py").is_file()
    assert "_pool" not in registry.names("engines")
