"""Scores of candidates that a run did not hold out itself, recorded with the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from evomerge.config.load import load
from evomerge.scoring import fitness_value
from evomerge.store import Store
from evomerge.types import Job
from evomerge.worker import Worker
from evomerge.yaml_files import parse_yaml


class Baselines(NamedTuple):
    """What all runs have in common.

    Attributes:
        rows: name, search and held-out fitness.
        coverage_of_sources: fraction of the search examples that one of the sources solves.
    """

    rows: list[tuple[str, float, float]]
    coverage_of_sources: float


class Examiner:
    """Reads scores of candidates, and finds out those that are missing.

    One worker serves all runs: they differ in space, optimizer and seed alone.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.close()

    def search(self, folder: Path, number: int) -> float:
        """The fitness of a candidate on the search examples."""
        with Store.open(folder, read_only=True) as store:
            found = store.evaluation(store.candidates()[number].recipe.digest)
        assert found is not None and found.value is not None
        return found.value

    def held_out(self, folder: Path, number: int) -> float:
        """The fitness of a candidate on the held-out examples."""
        with Store.open(folder) as store:
            recipe = store.candidates()[number].recipe
            found = store.evaluation(recipe.digest, "held_out")
            if found is None:
                setup = load(parse_yaml(store.run().search_yaml, str(folder))).search.setup
                self._worker = self._worker or Worker(setup)
                asked = self._worker.evaluate(Job(number, recipe, "held_out"))
                asked = replace(asked, value=fitness_value(setup.fitness, asked.tasks))
                found = store.record_evaluation(recipe.digest, "held_out", asked)
        assert found.value is not None
        return found.value


def of_baselines(folder: Path) -> Baselines:
    """The baselines of the run in a folder."""
    rows, solved = [], []
    with Store.open(folder, read_only=True) as store:
        for candidate in store.candidates():
            if candidate.kind != "baseline":
                continue
            search, held_out = (
                store.evaluation(candidate.recipe.digest, split) for split in ("search", "held_out")
            )
            assert search is not None and held_out is not None
            rows.append((candidate.label, search.value or 0.0, held_out.value or 0.0))
            if candidate.role == "source":
                tasks = search.tasks.values()
                solved.append([score > 0 for task in tasks for score in task.example_scores])
    return Baselines(rows, float(np.array(solved).any(0).mean()))
