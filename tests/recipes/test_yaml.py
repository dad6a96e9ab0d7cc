"""A recipe survives its own YAML, digest and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.errors import RecipeError
from evomerge.recipes import Recipe
from evomerge.recipes.yaml import from_yaml, is_recipe, to_yaml
from evomerge.yaml_files import parse_yaml

RECIPE = Recipe(
    base="org/base",
    sources={"math": "org/math@main", "ja": "/models/日本語: 1"},
    operator="dare_ties",
    parameters={
        "weight": {"math": {"mlp": [0.1 + 0.2, 1e-30], "other": 5e-324}, "ja": -1},
        "density": 1 / 3,
        "normalize": False,
        "rescale": "none",
    },
    seed=2**63,
    dtype="float16",
    tokenizer="base",
)


def read(text: str) -> Recipe:
    """The recipe in a YAML text."""
    return from_yaml(parse_yaml(text, "recipe.yaml"), "recipe.yaml")


def keys(**changed: Any) -> dict[str, Any]:
    """What a parsed recipe file holds."""
    return {"evomerge": 1, **RECIPE.model_dump(), **changed}


def test_a_recipe_comes_back_with_the_same_digest() -> None:
    again = read(to_yaml(RECIPE))
    assert (again, again.digest) == (RECIPE, RECIPE.digest)


def test_the_text_is_the_same_when_written_again() -> None:
    assert to_yaml(read(to_yaml(RECIPE))) == to_yaml(RECIPE)


def test_the_text_begins_with_the_digest() -> None:
    assert to_yaml(RECIPE).startswith(f"# digest {RECIPE.digest}\nevomerge: 1\n")


def test_sources_come_back_in_order() -> None:
    assert list(read(to_yaml(RECIPE)).sources) == ["math", "ja"]


def test_a_tokenizer_of_none_is_left_out() -> None:
    plain = RECIPE.model_copy(update={"tokenizer": None})
    assert "tokenizer" not in to_yaml(plain)
    assert read(to_yaml(plain)) == plain


def test_scales_come_back_exactly() -> None:
    scaled = RECIPE.model_copy(update={"scales": (1 / 3, -1.0)})
    assert read(to_yaml(scaled)) == scaled
    assert "scales" not in to_yaml(RECIPE)


@pytest.mark.parametrize("version", [None, 2, "1"])
def test_another_version_is_refused(version: Any) -> None:
    with pytest.raises(RecipeError, match=r"r\.yaml: expected 'evomerge: 1' at the top, got"):
        from_yaml(keys(evomerge=version), "r.yaml")


def test_every_mistake_is_reported_at_once() -> None:
    content = keys(opreator="ties", dtype="int8")
    del content["operator"]
    with pytest.raises(RecipeError) as caught:
        from_yaml(content, "r.yaml")
    missing, dtype, unknown = caught.value.problems
    assert missing.endswith("operator: this key is required.")
    assert dtype.endswith("Input should be 'float32', 'bfloat16' or 'float16' (got 'int8')")
    assert unknown.endswith("opreator: unknown key. Did you mean 'operator'?")


def test_a_file_is_a_recipe_by_its_ending(tmp_path: Path) -> None:
    for name in ("r.yaml", "r.yml", "r.json"):
        (tmp_path / name).touch()
    (tmp_path / "folder.yaml").mkdir()
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_recipe(path)]
    assert found == ["r.yaml", "r.yml"]


def test_missing_tensors_that_are_allowed_do_not_change_other_recipes() -> None:
    keys = {"base": "b", "sources": {"a": "a"}, "operator": "linear", "dtype": "float32"}
    plain = Recipe.model_validate(keys)
    allowing = Recipe.model_validate(keys | {"allow_missing": ["z.*", "a.?", "z.*"]})
    assert "allow_missing" not in to_yaml(plain) + plain.canonical_json()
    assert allowing.allow_missing == ("a.?", "z.*")
    assert allowing.digest != plain.digest
    assert from_yaml(parse_yaml(to_yaml(allowing), "r"), "r") == allowing
    assert Recipe.from_canonical_json(allowing.canonical_json()) == allowing
    with pytest.raises(ValidationError, match="allow_missing: expected a pattern, got ' '"):
        Recipe.model_validate(keys | {"allow_missing": [" "]})
