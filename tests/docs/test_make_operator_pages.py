"""The pages of operators are what their generator makes, and their examples are true."""

from __future__ import annotations

import doctest
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from evomerge.plugins import registry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    path = DOCS / "make_operator_pages.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_make_docs_writes(generator: ModuleType) -> None:
    made = generator.pages()
    assert {path.name for path in made} == {p.name for p in (DOCS / "operators").glob("*.md")}
    stale = [path.name for path, text in made.items() if path.read_text("utf-8") != text]
    assert stale == [], "run make docs"


@pytest.mark.parametrize("name", registry.names("operators"))
def test_a_page_describes_every_parameter(generator: ModuleType, name: str) -> None:
    rows = [line for line in generator.page(name).splitlines() if line.startswith("| `")]
    assert all(row.split(" | ")[-1].strip(" |") for row in rows), name
    assert not generator.page(name).endswith("## Source\n\n\n"), name


def test_examples_print_what_they_say() -> None:
    found = doctest.testfile(str(DOCS / "operators" / "README.md"), module_relative=False)
    assert found.attempted >= 7
    assert found.failed == 0
