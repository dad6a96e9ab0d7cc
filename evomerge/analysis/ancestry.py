"""Whom a candidate descends from, and how much of its weights each ancestor gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.analysis.summary import read_summary
from evomerge.config.schema import read_resolved
from evomerge.errors import RunError
from evomerge.recipes import LineageStep, Recipe
from evomerge.store import Store
from evomerge.types import Candidate, Genome

Shares = NDArray[np.float64]
Positions = NDArray[np.int64]
_RECIPE = ("bounds", "rows", "steps")  # genes that the recipe repeats


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A candidate, and what another owes it.

    Attributes:
        value: its fitness; None without one.
        share: of the descendant's weights, in [0, 1]: at every element the product of its
            line's shares in their children (|a| of |a| + |b|), averaged over all elements. Of the
            best of an earlier stage, which recipes merge as a whole: the descendants' shares times
            its own in them; None where a recipe is no sum of sources.
        parents: whom it was crossed from, or the best of earlier stages that its recipe merges.
        genes: how it was made of its parents, and why of these; of a seed the source.
    """

    number: int
    value: float | None
    share: float | None
    parents: tuple[int, ...]
    genes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lineage:
    """A candidate's family.

    Attributes:
        sources: source to its share of the weights, in [0, 1]: the sum over segments of length
            times absolute weight; of a stack, to its share of the blocks; empty where the recipe is
            neither. The best of an earlier stage counts as a source.
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
        summary = read_summary(folder, file.fitness, store)
        candidates = store.candidates()
    if candidate == "best" and summary.best is None:
        raise RunError(f"{folder}: no candidate has been scored yet")
    number = str(summary.best.number) if candidate == "best" and summary.best else candidate
    if number not in {str(one.number) for one in candidates}:
        raise RunError(f"{folder}: no candidate {number}. There are 0 to {len(candidates) - 1}.")
    rows = (*summary.baselines, *summary.candidates)
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
    shares: dict[int, float | None] = {number: 1.0}
    parents: dict[int, tuple[int, ...]] = {}
    # stage by stage, from the newest: within one, candidates are crossed from one another
    while waiting := sorted(shares.keys() - parents.keys(), reverse=True):
        first = waiting[0]
        genomes = {n: candidates[n].genome for n in _family(candidates, first)}
        for n, share in _shares(genomes).items():
            whole = shares.get(first)
            shares[n] = None if whole is None else share * whole
            winners = {} if genomes[n].parents else _winners(candidates, n)
            parents[n] = genomes[n].parents or tuple(winners)
            for winner, part in winners.items():
                shares[winner] = _sum(shares.get(winner, 0.0), shares[n], part)
    ancestors = [
        Ancestor(
            n,
            values.get(n),
            shares[n],
            parents[n],
            {g: gene for g, gene in _told(candidates[n].genome).items() if g not in _RECIPE},
        )
        for n in sorted(parents, reverse=True)
    ]
    return Lineage(number, _of_sources(candidates[number]), tuple(ancestors))


def _family(candidates: Sequence[Candidate], number: int) -> list[int]:
    """The candidate and all whom it was crossed from, the newest first."""
    found, waiting = set(), [number]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += candidates[one].genome.parents
    return sorted(found, reverse=True)


def _winners(candidates: Sequence[Candidate], number: int) -> dict[int, float | None]:
    """The earlier candidates that a recipe holds as models, and their share of its weights."""
    recipe = candidates[number].recipe
    inner = {n: model for n, model in recipe.sources.items() if isinstance(model, Recipe)}
    if isinstance(recipe.base, Recipe) and recipe.base not in inner.values():
        inner["base"] = recipe.base
    known: dict[str, int] = {}
    for candidate in candidates[:number]:
        if candidate.stage:
            known.setdefault(candidate.recipe.digest, candidate.number)
    shares = _of_sources(candidates[number])
    return {
        known[model.digest]: shares.get(name)
        for name, model in inner.items()
        if model.digest in known
    }


def _sum(before: float | None, whole: float | None, part: float | None) -> float | None:
    """A share with one more line added; None where one is not known."""
    if before is None or whole is None or part is None:
        return None
    return before + whole * part


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
    if "steps" in genome.genes and len(genome.parents) == 2:
        step = genome.genes["steps"][-1]
        starts = [0, *step["ends"][:-1]]
        for start, stop, row in zip(starts, step["ends"], step["weights"], strict=True):
            found.append((start, stop, [abs(w) for w in row]))
    for name, edges in genome.genes.items():
        if name.startswith("cut["):
            word = name.removeprefix("cut")
            start, cut, stop = edges
            for low, high, side in ((start, cut, "left"), (cut, stop, "right")):
                found.append((low, high, [abs(w) for w in genome.genes[f"{side}{word}"]]))
    return found


def _of_sources(candidate: Candidate) -> dict[str, float]:
    recipe = candidate.recipe
    if recipe.depth is not None and recipe.operator != "passthrough":
        return {}  # every block is merged
    if recipe.depth is not None:
        blocks: dict[str, float] = {}
        for slice_ in recipe.slices:
            for name, (start, end) in slice_.items():
                blocks[name] = blocks.get(name, 0.0) + (end - start) / len(slice_)
        return {name: count / recipe.depth for name, count in blocks.items()}
    if recipe.lineage is not None:
        bounds, rows = _without_noise(recipe.lineage.steps, tuple(recipe.sources))
    elif recipe.segments is not None:
        bounds, rows = np.array(recipe.segments.bounds), np.array(recipe.segments.rows)
    else:
        return dict.fromkeys(recipe.sources, 1.0) if len(recipe.sources) == 1 else {}
    lengths = np.diff(bounds)
    amounts = np.abs(rows).T @ lengths
    shares = (amounts / (amounts.sum() or 1.0)).tolist()
    return dict(zip(recipe.sources, shares, strict=True))


def _without_noise(
    steps: Sequence[LineageStep], sources: Sequence[str]
) -> tuple[Positions, Shares]:
    """What steps lead to but for their noise: (S + 1,) bounds, (S, K) weights of K sources."""
    bounds = np.array(sorted({0}.union(*(step.ends for step in steps))))
    owed: dict[str | int, Shares] = {name: np.zeros(len(bounds) - 1) for name in sources}
    owed[steps[-1].number] = np.ones(len(bounds) - 1)
    for step in reversed(steps):
        counts = np.diff(np.searchsorted(bounds, (0, *step.ends)))
        child = owed.pop(step.number, 0.0)
        for parent, weights in zip(step.parents, np.array(step.weights).T, strict=True):
            owed[parent] = owed.get(parent, 0.0) + child * np.repeat(weights, counts)
    return bounds, np.stack([owed[name] for name in sources], axis=1)
