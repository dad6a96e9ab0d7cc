"""Segments on real checkpoints: which elements they mean, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.errors import ExportError, PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import from_mergekit, to_mergekit
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan
from evomerge.weights.segments import PrefixGrams, layout_of
from evomerge.yaml_files import parse_yaml

SOURCES = ("arithmetic", "strings", "kanji")


@pytest.fixture(scope="module")
def models(zoo: Path) -> Models:
    return Library().open(str(zoo / "base"), {name: str(zoo / name) for name in SOURCES})


def recipe(zoo: Path, **keys: Any) -> Recipe:
    content = {
        "base": str(zoo / "base"),
        "sources": {name: str(zoo / name) for name in SOURCES},
        "operator": "segments",
        "dtype": "float32",
    }
    return Recipe.model_validate(content | keys)


def flat(models: Models, names: tuple[str, ...], source: str) -> torch.Tensor:
    checkpoint = models.sources[source]
    return torch.cat([checkpoint.read(name).float().reshape(-1) for name in names])


def test_a_segment_is_the_same_elements_of_all_sources(models: Models, zoo: Path) -> None:
    words = [["attention"], ["mlp"], ["rest"]]
    layout = layout_of(models, words)
    bounds = [0, 12_345, 500_001, layout.size]
    rows = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [-0.1, 0.8, 0.3]]
    segments = {"chromosomes": words, "bounds": bounds, "rows": rows}
    found = dict(merge(make_plan(recipe(zoo, segments=segments), models)))
    whole = torch.cat([found[name].reshape(-1) for name in layout.names])
    sources = [flat(models, layout.names, source) for source in SOURCES]
    for (start, stop), row in zip(pairwise(bounds), rows, strict=True):
        expected = torch.zeros(stop - start)
        for weight, source in zip(row, sources, strict=True):
            expected += float(np.float32(weight)) * source[start:stop]
        assert torch.equal(whole[start:stop], expected)


@pytest.mark.parametrize("task_vectors", [False, True])
def test_prefix_grams_are_inner_products_of_the_first_elements(
    models: Models, task_vectors: bool
) -> None:
    layout = layout_of(models, [["all"]])
    wide = torch.stack([flat(models, layout.names, source) for source in SOURCES])
    if task_vectors:
        base = [models.base.read(name).float().reshape(-1) for name in layout.names]
        wide = wide - torch.cat(base)
    positions = [0, 3, 65_536, 700_001, layout.size]
    grams = PrefixGrams(models, layout, task_vectors=task_vectors)
    for position, gram in zip(positions, grams.at(positions), strict=True):
        part = wide[:, :position].double()
        np.testing.assert_allclose(gram, (part @ part.T).numpy(), rtol=1e-11)


def test_prefix_grams_are_the_same_in_whatever_order_they_are_asked_for(models: Models) -> None:
    layout = layout_of(models, [["all"]])
    positions = [700_001, 12, 655_000]
    once = PrefixGrams(models, layout).at(positions)
    again = PrefixGrams(models, layout)
    for number in (2, 0, 1):
        assert np.array_equal(again.at([positions[number]])[0], once[number])


def test_thousands_of_prefix_grams_are_kept_apart(models: Models) -> None:
    layout = layout_of(models, [["all"]])
    positions = list(range(0, 3 * 1024, 2))
    once = PrefixGrams(models, layout)
    answers = np.concatenate([once.at([position]) for position in positions])
    assert np.array_equal(once.at(positions), answers)  # after it has grown
    few = [0, 1022, 1968, 1970, 3000]
    assert np.array_equal(once.at(few), PrefixGrams(models, layout).at(few))


def test_what_was_measured_is_answered_from_memory_by_another(models: Models) -> None:
    layout = layout_of(models, [["all"]])
    asked = [700_001, 0, layout.size]
    first = PrefixGrams(models, layout)
    answers = first.at(asked)
    measured = first.take_new()
    assert sorted(gram.position for gram in measured) == sorted({700_001, *layout.starts})
    assert first.take_new() == []

    second = PrefixGrams(models, layout)
    second.load(measured)
    assert np.array_equal(second.at(asked), answers)
    assert second.take_new() == []  # all of it was remembered

    third = PrefixGrams(models, layout)  # no look at the sources: it repeats what was loaded
    third.load([gram._replace(products=(7.0,) * 9) for gram in measured])
    assert (third.at(asked) == 7.0).all()


def test_what_was_measured_of_others_is_not_recalled(models: Models, zoo: Path) -> None:
    layout = layout_of(models, [["all"]])
    sources = {name: str(zoo / name) for name in reversed(SOURCES)}
    backwards = Library().open(str(zoo / "base"), sources)
    parts = layout_of(models, [["attention"], ["rest"]])
    others = [
        PrefixGrams(models, layout, task_vectors=True),
        PrefixGrams(backwards, layout),
        PrefixGrams(models, parts),
    ]
    grams = PrefixGrams(models, layout)
    for other in others:
        other.at([12])
        grams.load(other.take_new())
    assert np.array_equal(grams.at([12]), PrefixGrams(models, layout).at([12]))
    assert len(grams.take_new()) == len(layout.starts) + 1


def test_segments_of_another_model_are_refused(models: Models, zoo: Path) -> None:
    segments = {"bounds": [0, 7], "rows": [[1.0, 0.0, 0.0]]}
    with pytest.raises(PlanError, match=r"the last is 7, but the models have 978560 elements"):
        make_plan(recipe(zoo, segments=segments), models)


def test_segments_of_which_all_weights_are_zero_are_refused(models: Models, zoo: Path) -> None:
    segments: dict[str, Any] = {"bounds": [0, 7, 978_560], "rows": [[0.0] * 3, [0.0] * 3]}
    with pytest.raises(PlanError, match=r"^segments\.rows: 0 for all sources in every tensor"):
        make_plan(recipe(zoo, segments=segments), models)
    make_plan(recipe(zoo, segments=segments, parameters={"space": "task_vector"}), models)
    segments["rows"][0] = [0.0, 0.0, 1.0]
    make_plan(recipe(zoo, segments=segments), models)


def test_segments_with_another_operator_are_refused(models: Models, zoo: Path) -> None:
    segments = {"bounds": [0, 978_560], "rows": [[1.0, 0.0, 0.0]]}
    with pytest.raises(PlanError, match=r"segments: linear has none\. Set operator: segments\."):
        make_plan(recipe(zoo, operator="linear", segments=segments), models)


def test_planning_reports_chromosomes_without_tensors(models: Models, zoo: Path) -> None:
    segments = {
        "chromosomes": [["attention"], ["nothing"]],
        "bounds": [0, 978_560],
        "rows": [[1.0, 0.0, 0.0]],
    }
    with pytest.raises(PlanError, match="no tensor belongs to nothing"):
        make_plan(recipe(zoo, segments=segments), models)


def test_a_source_that_lacks_a_tensor_is_refused(tiny: Callable[..., Path]) -> None:
    short = tiny(1, num_hidden_layers=3, attention_bias=False)
    rich = tiny(0, num_hidden_layers=3, attention_bias=True)
    sources = {"rich": str(rich), "short": str(short)}
    models = Library().open(str(rich), sources, allow_missing=["*.bias"])
    with pytest.raises(PlanError, match=r"segments: short lacks 12 tensors, model\.layers"):
        layout_of(models, [["all"]])


def exported(models: Models, one: Recipe) -> Recipe:
    """The recipe after a journey through mergekit YAML, which names the one that it is of."""
    places = {slot.name: slot.place for slot in models.slots}
    text = to_mergekit(one, places, {slot.name: slot.shape for slot in models.slots})
    assert text.startswith(f"# evomerge recipe {one.digest}\n")
    return from_mergekit(parse_yaml(text, "m.yaml"), "m.yaml", lambda _: models.layers)


@pytest.mark.parametrize("space", ["weights", "task_vector"])
def test_segments_of_whole_tensors_are_mergekit_yaml_of_the_same_weights(
    models: Models, zoo: Path, space: str
) -> None:
    layout = layout_of(models, [["attention"], ["rest"]])
    bounds = [0, layout.starts[3], layout.starts[11], layout.starts[-3], layout.size]
    rows = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.8, 0.1], [0.25, 0.5, 0.25]]
    segments = {"chromosomes": [["attention"], ["rest"]], "bounds": bounds, "rows": rows}
    one = recipe(zoo, segments=segments, parameters={"space": space})
    again = exported(models, one)
    assert again.operator == {"weights": "linear", "task_vector": "task_arithmetic"}[space]
    found = dict(merge(make_plan(again, models)))
    for name, value in merge(make_plan(one, models)):
        assert torch.equal(found[name], value), name


def test_a_segment_that_begins_inside_a_tensor_is_no_mergekit_yaml(
    models: Models, zoo: Path
) -> None:
    segments = {"bounds": [0, 7, 978_560], "rows": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}
    with pytest.raises(ExportError, match=r"1 tensors are cut in pieces, model\.embed_tokens"):
        exported(models, recipe(zoo, segments=segments))
