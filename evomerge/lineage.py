"""Whom a candidate descends from, and how much of its weights each ancestor gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.config import read_resolved
from evomerge.errors import RunError
from evomerge.nouns import Candidate, Genome
from evomerge.outcome import read_outcome
from evomerge.store import Store

Shares = NDArray[np.float64]
_RECIPE = ("bounds", "rows")  # genes that the recipe repeats


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A candidate, and what another owes it.

    Attributes:
        value: its fitness; None without one.
        share: of the descendant's weights, in [0, 1]: at every element the product of its
            line's shares in their children (|a| of |a| + |b|), averaged over all elements.
        genes: how it was made of its parents, and why of these; of a seed the source.
    """

    number: int
    value: float | None
    share: float
    parents: tuple[int, ...]
    genes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lineage:
    """A candidate's family.

    Attributes:
        sources: source to its share of the weights, in [0, 1]: the sum over segments of length
            times absolute weight; of a stack, to its share of the blocks; empty where the recipe is
            neither.
        ancestors: the candidate itself first, then the others from the newest to the oldest.
    """

    candidate: int
    sources: Mapping[str, float]
    ancestors: tuple[Ancestor, ...]

    def as_json(self) -> dict[str, Any]:
        """The lineage for ``--json``."""
        return {
            "candidate": self.candidate,
            "sources": dict(self.sources),
            "ancestors": [
                {
                    "number": one.number,
                    "value": one.value,
                    "share": one.share,
                    "parents": list(one.parents),
                    "genes": dict(one.genes),
                }
                for one in self.ancestors
            ],
        }


def read_lineage(folder: Path, candidate: str) -> Lineage:
    """The lineage of a run's candidate.

    Args:
        candidate: a number, or ``best``.

    Raises:
        RunError: no such run or candidate, or nothing scored yet.
    """
    with Store.open(folder, read_only=True) as store:
        file = read_resolved(store.run().search_yaml, str(folder))
        outcome = read_outcome(folder, file.fitness, store)
        candidates = store.candidates()
    if candidate == "best" and outcome.best is None:
        raise RunError(f"{folder}: no candidate has been scored yet")
    number = str(outcome.best.number) if candidate == "best" and outcome.best else candidate
    if number not in {str(one.number) for one in candidates}:
        raise RunError(f"{folder}: no candidate {number}. There are 0 to {len(candidates) - 1}.")
    rows = (*outcome.baselines, *outcome.candidates)
    values = {row.number: row.search.value if row.search else None for row in rows}
    return lineage(candidates, int(number), values)


def lineage(
    candidates: Sequence[Candidate], number: int, values: Mapping[int, float | None]
) -> Lineage:
    """The lineage of one of some candidates.

    Args:
        candidates: by number.
        values: number to fitness.
    """
    genomes = {n: candidates[n].genome for n in _family(candidates, number)}
    ancestors = [
        Ancestor(
            n,
            values.get(n),
            share,
            genomes[n].parents,
            {name: gene for name, gene in _told(genomes[n]).items() if name not in _RECIPE},
        )
        for n, share in _shares(genomes).items()
    ]
    return Lineage(number, _of_sources(candidates[number]), tuple(ancestors))


def _family(candidates: Sequence[Candidate], number: int) -> list[int]:
    """The candidate and all its ancestors, the newest first: children before their parents."""
    found, waiting = set(), [number]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += candidates[one].genome.parents
    return sorted(found, reverse=True)


def _told(genome: Genome) -> Mapping[str, Any]:
    """The genes that count: of a seed its source, if it is one."""
    genes = genome.genes
    return {"source": genes["source"]} if not genome.parents and "source" in genes else genes


def _shares(genomes: Mapping[int, Genome]) -> dict[int, float]:
    """Number to share, children before their parents."""
    edges = {0, 1} | {edge for genome in genomes.values() for c in _parts(genome) for edge in c[:2]}
    cuts = np.array(sorted(edges))
    lengths = np.diff(cuts)
    owed: dict[int, Shares] = {n: np.zeros(len(lengths)) for n in genomes}
    owed[next(iter(genomes))] += 1.0
    for number, genome in genomes.items():
        for start, stop, weights in _parts(genome):
            here = (cuts[:-1] >= start) & (cuts[:-1] < stop)
            total = sum(weights) or 1.0
            for parent, weight in zip(genome.parents, weights, strict=True):
                owed[parent][here] += owed[number][here] * weight / total
        if len(genome.parents) == 1:
            owed[genome.parents[0]] += owed[number]
    return {number: float(part @ lengths / lengths.sum()) for number, part in owed.items()}


def _parts(genome: Genome) -> list[tuple[int, int, list[float]]]:
    """Where each side of a child of two begins and ends, and its parents' absolute weights."""
    found = []
    for name, edges in genome.genes.items():
        if name.startswith("cut["):
            word = name.removeprefix("cut")
            start, cut, stop = edges
            for low, high, side in ((start, cut, "left"), (cut, stop, "right")):
                found.append((low, high, [abs(w) for w in genome.genes[f"{side}{word}"]]))
    return found


def _of_sources(candidate: Candidate) -> dict[str, float]:
    recipe = candidate.recipe
    if recipe.depth is not None:
        blocks: dict[str, float] = {}
        for slice_ in recipe.slices:
            for name, (start, end) in slice_.items():
                blocks[name] = blocks.get(name, 0.0) + (end - start) / len(slice_)
        return {name: count / recipe.depth for name, count in blocks.items()}
    if recipe.segments is None:
        return dict.fromkeys(recipe.sources, 1.0) if len(recipe.sources) == 1 else {}
    lengths = np.diff(recipe.segments.bounds)
    amounts = np.abs(np.array(recipe.segments.rows)).T @ lengths
    shares = (amounts / (amounts.sum() or 1.0)).tolist()
    return dict(zip(recipe.sources, shares, strict=True))
