from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import CheckpointError
from evomerge.recipes.references import anchor, hub_name, resolve


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("org/name", "org/name"),
        ("org/name@main", "org/name"),
        ("org/name@refs/pr/3", "org/name"),
        *((text, None) for text in ("/org/name", "./name", "../name", "name", "a/b/c", "a b/c")),
        ("org/name\n", None),
    ],
)
def test_hub_name(reference: str, name: str | None) -> None:
    assert hub_name(reference) == name


def test_a_relative_folder_is_seen_from_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert anchor("org/name", tmp_path) == str(tmp_path / "org" / "name")
    assert anchor("org/other", tmp_path) == "org/other"
    assert anchor("../sibling", tmp_path / "sub") == str(tmp_path / "sibling")
    assert anchor("~", tmp_path) == str(Path.home())


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("reference", ["/no/such/folder", "./nothing", "no such folder"])
def test_a_missing_folder_is_not_sought_on_the_hub(reference: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder. Check the path"):
        resolve(reference)


def test_a_model_that_the_hub_does_not_give_is_named() -> None:
    with pytest.raises(CheckpointError, match="nobody/nothing@v1: no such folder, and the hub"):
        resolve("nobody/nothing@v1")
