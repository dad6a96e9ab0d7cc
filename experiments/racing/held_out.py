"""What recommended recipes score, on search examples and on those held out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from evomerge.config.load import load
from evomerge.scoring import fitness_value
from evomerge.scoring.tasks import example_counts
from evomerge.types import Genome, Job
from evomerge.worker import Worker
from experiments.racing.zoos import Zoo


class Examiner:
    """Scores the recipes of a zoo, and keeps the scores in a file."""

    def __init__(self, zoo: Zoo, file: Path) -> None:
        self._searches = {
            "search": load(zoo.search, zoo.overrides),
            "held_out": load(zoo.search, zoo.held_out),
        }
        self._space = self._searches["search"].search.stages[0].space
        self._workers: dict[str, Worker] = {}
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self._known = {(one[0], one[1]): float(one[2]) for one in map(json.loads, lines)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def examples(self, of_each_task: int | None) -> int:
        """How many search examples a candidate is asked that is asked everything.

        Args:
            of_each_task: where a search takes only so many; None for all.
        """
        counts = example_counts(self._searches["search"].file.fitness)["search"].values()
        return sum(min(count, of_each_task or count) for count in counts)

    def score(self, genes: Mapping[str, Any], which: str) -> float:
        """The mean over the tasks, in [0, 1].

        Args:
            which: ``search`` or ``held_out``.
        """
        recipe = self._space.decode(Genome(genes))
        key = (which, recipe.digest)
        if key not in self._known:
            loaded = self._searches[which]
            if which not in self._workers:
                self._workers[which] = Worker(loaded.search.setup)
            evaluation = self._workers[which].evaluate(Job(0, recipe, "search"))
            self._known[key] = fitness_value(loaded.file.fitness, evaluation.tasks)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([*key, self._known[key]]) + "\n")
        return self._known[key]
