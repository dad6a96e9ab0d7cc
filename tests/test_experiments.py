"""The searches in `experiments/` load, and are what their questions need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "dataflow_zoo"
# stage, or the whole: genes, and blocks of the largest stack
KINDS: dict[str, dict[str, tuple[int, int | None]]] = {
    "ps": {"": (6, None)},
    "dfs": {"": (22 + 23, 8)},
    "dfs_scale_one": {"": (22, 8)},
    "hybrid": {"merge": (6, None), "stack": (30 + 31, 8)},
    "joint": {"": (6 + 6 + 7, 8)},
}


def loaded(name: str) -> LoadedSearch:
    return load(FOLDER / f"{name}.yaml")


def test_every_search_on_the_zoo_of_stacks_is_known() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*KINDS, "skills"}


@pytest.mark.parametrize("name", KINDS)
def test_a_search_on_the_zoo_of_stacks_can_run(name: str) -> None:
    one = loaded(name)
    facts = estimate(one)
    stages: dict[str, Any] = facts.get("stages") or {"": facts}
    found = {
        stage: (inner["genome_dimension"], inner.get("largest_stack", {}).get("layers"))
        for stage, inner in stages.items()
    }
    assert found == KINDS[name]
    assert one.search.evaluations == 160  # so that they can be compared
    assert facts["fits_here"] == "yes"
    assert one.notes == ()


def test_the_ablation_differs_in_its_scales_alone() -> None:
    with_scales, without = (loaded(name).file for name in ("dfs", "dfs_scale_one"))
    assert with_scales.space is not None and without.space is not None
    assert {**with_scales.space, "scales": "none"} == without.space
    one = with_scales.model_copy(update={"name": without.name, "space": without.space})
    assert one == without
