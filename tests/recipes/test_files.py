"""Recipe files name models, and other recipe files."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipes import Recipe
from evomerge.recipes.files import RecipeReader
from evomerge.recipes.yaml import to_yaml

INNER = "evomerge: 1\nbase: models/b\nsources: {s: org/s}\noperator: ties\ndtype: float32\n"


def anchor(reference: str, folder: Path) -> str:
    """Folders that begin so are seen from the file."""
    return str(folder / reference) if reference.startswith("models/") else reference


READER = RecipeReader(anchor, lambda model: 4, lambda model: {})


def write(path: Path, text: str) -> Path:
    """A file, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def recipe_of(*sources: str) -> str:
    """A recipe file with these sources."""
    named = ", ".join(f"s{number}: {source}" for number, source in enumerate(sources))
    return f"evomerge: 1\nbase: org/b\nsources: {{{named}}}\noperator: linear\ndtype: bfloat16\n"


def test_a_source_may_be_a_recipe_file(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "inner.yaml", INNER)
    outer = write(tmp_path / "outer.yaml", recipe_of("deep/inner.yaml", "models/x"))
    one = READER.read(outer)
    inner = one.sources["s0"]
    assert isinstance(inner, Recipe)
    assert inner.base == str(tmp_path / "deep" / "models/b")
    assert one.sources["s1"] == str(tmp_path / "models/x")


def test_a_source_may_be_a_file_of_mergekit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "merge_method: slerp\nbase_model: models/a\nmodels: [{model: org/b}]\n"
    write(tmp_path / "deep" / "m.yml", f"{text}parameters: {{t: [0, 1]}}\n")
    outer = write(tmp_path / "outer.yaml", recipe_of("deep/m.yml"))
    monkeypatch.chdir(tmp_path)  # from where mergekit sees relative folders
    inner = READER.read(outer).sources["s0"]
    assert isinstance(inner, Recipe)
    assert inner.base == str(tmp_path / "models/a")
    assert inner.parameters == {"t": pytest.approx([0, 1 / 3, 2 / 3, 1])}


def test_a_source_may_be_written_out(tmp_path: Path) -> None:
    inner = "{base: models/b, sources: {x: org/x}, operator: ties, dtype: float16}"
    one = READER.read(write(tmp_path / "r.yaml", recipe_of(inner)))
    assert isinstance(one.sources["s0"], Recipe)
    assert one.sources["s0"].base == str(tmp_path / "models/b")
    again = READER.read(write(tmp_path / "again.yaml", to_yaml(one)))
    assert (again, again.digest) == (one, one.digest)


def test_a_recipe_that_is_made_of_itself_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a.yaml", recipe_of("b.yaml"))
    two = write(tmp_path / "b.yaml", recipe_of("a.yaml"))
    with pytest.raises(RecipeError, match="is made of itself") as caught:
        READER.read(one)
    assert f"{one} -> {two} -> {one}" in str(caught.value)


def test_the_same_recipe_twice_is_no_cycle(tmp_path: Path) -> None:
    write(tmp_path / "inner.yaml", INNER)
    outer = write(tmp_path / "outer.yaml", recipe_of("inner.yaml", "inner.yaml"))
    assert len(READER.read(outer).sources) == 2


def test_mistakes_in_every_recipe_are_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path / "inner.yaml", INNER.replace("ties", "ties\nopreator: x"))
    text = recipe_of("inner.yaml", "{evomerge: 2, base: b, sources: {}, operator: x, dtype: int8}")
    outer = write(tmp_path / "outer.yaml", f"{text}seed: -1\n")
    with pytest.raises(RecipeError) as caught:
        READER.read(outer)
    found = [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert [problem.partition(": ")[2][:45] for problem in found] == [
        "opreator: unknown key. Did you mean 'operator",
        "sources.s1.evomerge: expected 1, got 2",
        "sources.s1.sources: Dictionary should have at",
        "sources.s1.dtype: Input should be 'float32', ",
        "seed: Input should be greater than or equal t",
    ]


def test_many_documents_are_mergekits_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", f"{INNER}---\n{INNER}")
    with pytest.raises(RecipeError, match="expected one recipe, got 2 YAML documents"):
        READER.read(path)


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected keys and values, got NoneType"):
        READER.read(write(tmp_path / "r.yaml", ""))


def test_statistics_are_seen_from_the_file(tmp_path: Path) -> None:
    text = recipe_of("org/x") + "statistics: {s0: models/s}\n"
    one = READER.read(write(tmp_path / "r.yaml", text))
    assert one.statistics == {"s0": str(tmp_path / "models/s")}
