"""A run, candidates and evaluations to fill a store with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evomerge.recipes import Recipe
from evomerge.store import RunRecord
from evomerge.types import Candidate, Evaluation, Genome, TaskScores


@pytest.fixture(scope="module", autouse=True)
def disk() -> None:
    """What a power cut may take is what many of these tests are about: they wait for the disk."""


@pytest.fixture
def run() -> RunRecord:
    return RunRecord(
        name="two skills",
        search_yaml="name: two skills\n",
        seed=7,
        fitness_digest="f" * 64,
        settings_digest="s" * 64,
        versions={"python": "3.11.2"},
        sources_fingerprints={"math": "ab" * 32},
        host="node-17",
    )


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    def make(number: int, *parents: int) -> Candidate:
        recipe = Recipe(
            base="models/base",
            sources={"math": "models/math", "ja": "models/ja"},
            operator="linear",
            parameters={"weight": {"math": float(number), "ja": 0.5}},
            dtype="bfloat16",
        )
        return Candidate(
            number=number,
            kind="search",
            genome=Genome({"weight": float(number)}, parents),
            recipe=recipe,
        )

    return make


@pytest.fixture
def evaluation() -> Callable[..., Evaluation]:
    def make(value: float, examples: int = 3) -> Evaluation:
        scores = TaskScores(value, tuple(range(examples)), (1.0, *[0.5] * (examples - 1)))
        return Evaluation(
            "done",
            {"gsm8k": scores, "ja": scores},
            value=value,
            measures={"layers": 12.0},
            merge_seconds=0.5,
            score_seconds=2.0,
        )

    return make
