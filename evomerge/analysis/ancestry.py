"""Whom a candidate descends from, and how much of its weights each ancestor gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.recipes import LineageStep, Recipe
from evomerge.types import Candidate, Genome

Shares = NDArray[np.float64]
Positions = NDArray[np.int64]
_RECIPE = ("bounds", "rows", "steps")  # genes that the recipe repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A candidate, and how much of a descendant's weights comes from it.

    Attributes:
        value: its fitness; None without one.
        share: of the descendant's weights, in [0, 1]. At each element, a parent with weight a
            owns |a| / (|a| + |b|) of its child; shares multiply along a line of descent, add up
            over lines, and are averaged over all elements. The best of an earlier stage, which
            recipes merge as a whole, owns its share of each recipe that merges it. None where a
            recipe is not a sum of sources.
        parents: the candidates that it was crossed from, or the best of earlier stages that its
            recipe merges.
        genes: how and why it was made of these parents; for a seed, its source.
    """

    number: int
    value: float | None
    share: float | None
    parents: tuple[int, ...]
    genes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ancestry:
    """Whom a candidate descends from, and how much of its weights each source and ancestor gave.

    Attributes:
        sources: source to its share of the weights, in [0, 1]: the sum over segments of length
            times absolute weight; of a stack, to its share of the blocks; empty where the recipe is
            neither. The best of an earlier stage counts as a source.
        ancestors: the candidate itself first, then the others from the newest to the oldest.
    """

    candidate: int
    sources: Mapping[str, float]
    ancestors: tuple[Ancestor, ...]


def ancestry(
    candidates: Sequence[Candidate], number: int, values: Mapping[int, float | None]
) -> Ancestry:
    """The ancestry of a candidate.

    Args:
        candidates: all of the run, by number.
        number: the candidate's.
        values: number to fitness; None without one.
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
            number=n,
            value=values.get(n),
            share=shares[n],
            parents=parents[n],
            genes=_without_recipe(candidates[n].genome),
        )
        for n in sorted(parents, reverse=True)
    ]
    return Ancestry(number, _of_sources(candidates[number]), tuple(ancestors))


def _family(candidates: Sequence[Candidate], number: int) -> list[int]:
    """A candidate and all that it was crossed from, the newest first."""
    family, waiting = set(), [number]
    while waiting:
        one = waiting.pop()
        if one not in family:
            family.add(one)
            waiting += candidates[one].genome.parents
    return sorted(family, reverse=True)


def _winners(candidates: Sequence[Candidate], number: int) -> dict[int, float | None]:
    """The earlier candidates that a recipe merges as models, and their shares of its weights."""
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
    """An ancestor's share with one more line of descent added; None where a part is unknown."""
    if before is None or whole is None or part is None:
        return None
    return before + whole * part


def _without_recipe(genome: Genome) -> dict[str, Any]:
    """The genes that are not in the recipe as well; for a seed that is a source, only its name."""
    genes = genome.genes
    if not genome.parents and "source" in genes:
        return {"source": genes["source"]}
    return {name: gene for name, gene in genes.items() if name not in _RECIPE}


def _shares(genomes: Mapping[int, Genome]) -> dict[int, float]:
    """The share of each candidate of a family, by number.

    Args:
        genomes: of the family by number, children before their parents.
    """
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
    # exact sums: those of BLAS differ from machine to machine in the last digit
    return {
        number: fsum((part * lengths).tolist()) / int(lengths.sum())
        for number, part in owed.items()
    }


def _parts(genome: Genome) -> list[tuple[int, int, list[float]]]:
    """Each part of a child of two: where it begins and ends, and its parents' absolute weights."""
    parts = []
    if "steps" in genome.genes and len(genome.parents) == 2:
        step = genome.genes["steps"][-1]
        starts = [0, *step["ends"][:-1]]
        for start, stop, row in zip(starts, step["ends"], step["weights"], strict=True):
            parts.append((start, stop, [abs(w) for w in row]))
    for name, edges in genome.genes.items():
        if name.startswith("cut["):
            word = name.removeprefix("cut")
            start, cut, stop = edges
            for low, high, side in ((start, cut, "left"), (cut, stop, "right")):
                parts.append((low, high, [abs(w) for w in genome.genes[f"{side}{word}"]]))
    return parts


def _of_sources(candidate: Candidate) -> dict[str, float]:
    """See `Ancestry.sources`."""
    recipe = candidate.recipe
    if recipe.depth is not None and recipe.operator != "passthrough":
        return {}  # blocks are merged, not taken from one source
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
    amounts = [fsum(column) for column in (np.abs(rows).T * lengths).tolist()]
    total = fsum(amounts) or 1.0
    return {name: amount / total for name, amount in zip(recipe.sources, amounts, strict=True)}


def _without_noise(
    steps: Sequence[LineageStep], sources: Sequence[str]
) -> tuple[Positions, Shares]:
    """What the steps amount to without noise: (S + 1,) bounds, (S, K) weights of K sources."""
    bounds = np.array(sorted({0}.union(*(step.ends for step in steps))))
    owed: dict[str | int, Shares] = {name: np.zeros(len(bounds) - 1) for name in sources}
    owed[steps[-1].number] = np.ones(len(bounds) - 1)
    for step in reversed(steps):
        counts = np.diff(np.searchsorted(bounds, (0, *step.ends)))
        child = owed.pop(step.number, 0.0)
        for parent, weights in zip(step.parents, np.array(step.weights).T, strict=True):
            owed[parent] = owed.get(parent, 0.0) + child * np.repeat(weights, counts)
    return bounds, np.stack([owed[name] for name in sources], axis=1)
