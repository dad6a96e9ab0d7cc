"""One search, and what it would have recommended had its budget ended earlier."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.config.load import LoadedSearch, load
from evomerge.optimizers import Optimizer
from evomerge.search.run import resume, start
from evomerge.search.spec import Progress
from evomerge.spaces import Space
from evomerge.store import Store
from evomerge.types import count
from experiments.racing.methods import Method
from experiments.racing.zoos import Zoo

log = logging.getLogger(__name__)
_STATES = "states.jsonl"


class State(NamedTuple):
    """What a search would recommend, after so many search examples of its candidates.

    Attributes:
        genomes: estimates of the best, most trusted first.
        search: the score of the only one on the search examples, where it was chosen by it.
        starts: those that were asked everything.
    """

    examples: int
    genomes: tuple[Mapping[str, Any], ...]
    search: float | None = None
    starts: tuple[Mapping[str, Any], ...] = ()


def course(zoo: Zoo, method: Method, seed: int, folder: Path) -> list[State]:
    """The states of an evomerge search, which is first brought to its end.

    Args:
        folder: of the run; gone on with where it was stopped.
    """
    loaded = load(zoo.search, method.overrides(zoo, seed))
    stage = loaded.search.stages[0]
    watch = _Watch(folder, loaded.search.stages[0].space)
    watched = replace(stage, new_optimizer=watch.around(stage.new_optimizer))
    search = replace(loaded.search, stages=(watched,))
    if not Store.exists(folder):
        start(search, folder, watch)
    elif not _finished(folder):
        resume(search, folder, watch)
    if method.recommends == "best":
        return _best_ever(loaded, folder)
    lines = (folder / _STATES).read_text(encoding="utf-8").splitlines()
    states = [State(one["examples"], tuple(one["genomes"])) for one in map(json.loads, lines)]
    starts = _starts_asked_everything(folder)
    return [one._replace(starts=starts if one.examples else ()) for one in states]


class _Watch:
    """Notes what the optimizer would recommend, whenever something was reported to it."""

    def __init__(self, folder: Path, space: Space) -> None:
        self.folder, self._space = folder, space
        self._optimizer: Optimizer | None = None
        self._noted = ""

    def around(self, make: Any) -> Any:
        def made(space: Space) -> Optimizer:
            self._optimizer = make(space)
            return self._optimizer

        return made

    def __call__(self, now: Progress) -> None:
        assert self._optimizer is not None
        finalists = [genome.genes for _, genome in self._optimizer.finalists()]
        genomes = finalists or [{p.name: p.initial for p in self._optimizer.parameters}]
        text = json.dumps(genomes)
        if text == self._noted or now.stage != "search":
            return
        self._noted = text
        state = {"examples": examples_asked(self.folder), "genomes": genomes}
        with (self.folder / _STATES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(state) + "\n")


def examples_asked(folder: Path) -> int:
    """Search examples of the candidates that a run has asked so far."""
    with Store.open(folder, read_only=True) as store:
        asked = {c.recipe.digest for c in store.candidates() if c.kind == "search"}
        cells: dict[str, int] = dict.fromkeys(asked, 0)
        for one in store.portions():
            if one.recipe_digest in cells:
                cells[one.recipe_digest] += count(one.cells)
        for digest, evaluation in store.evaluations("search"):
            if digest in cells:
                cells[digest] = max(cells[digest], evaluation.examples)
    return sum(cells.values())


def _finished(folder: Path) -> bool:
    with Store.open(folder, read_only=True) as store:
        return store.run().finished_utc is not None


def _starts_asked_everything(folder: Path) -> tuple[Mapping[str, Any], ...]:
    with Store.open(folder, read_only=True) as store:
        candidates, known = store.candidates(), dict(store.evaluations("search"))
    starts = [c for c in candidates if c.kind == "search" and c.label]
    return tuple(c.genome.genes for c in starts if c.recipe.digest in known)


def _best_ever(loaded: LoadedSearch, folder: Path) -> list[State]:
    """The best candidate so far, after each one that is better than all before it."""
    with Store.open(folder, read_only=True) as store:
        candidates = [c for c in store.candidates() if c.kind == "search"]
        found = dict(store.evaluations("search"))
    return best_ever(
        [c.genome.genes for c in candidates],
        [found[c.recipe.digest].value for c in candidates if c.recipe.digest in found],
        found[candidates[0].recipe.digest].examples,
    )


def best_ever(
    genomes: Sequence[Mapping[str, Any]], values: Sequence[float | None], each: int
) -> list[State]:
    """The best so far after every candidate that beats those before.

    Args:
        each: search examples of a candidate.
    """
    states: list[State] = []
    for number, (genes, value) in enumerate(zip(genomes, values, strict=False), 1):
        if value is not None and (not states or value > (states[-1].search or 0.0)):
            states.append(State(number * each, (genes,), value))
    return states
