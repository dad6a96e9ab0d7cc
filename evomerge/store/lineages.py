"""Lineages in few bytes: a candidate's row holds its own step, its ancestors' rows the others.

A child with mutations is described by all steps that lead to it, as many as it has ancestors.
Written with every candidate, they would make the file grow with the square of their number.
"""

from __future__ import annotations

import json
from typing import Any

from evomerge.errors import StoreError

_GENE = "steps"
Genes = dict[str, Any]


class Steps:
    """The steps of all lineages of a run, as parsed JSON; each is kept once."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Any]] = {}

    def shorten(self, genes: Genes, recipe: str) -> tuple[Genes, str]:
        """Genes and recipe with the last step in place of the list of all steps.

        They stay as they are where the list does not follow from that step and earlier candidates.

        Args:
            recipe: as canonical JSON.
        """
        steps: Any = genes.get(_GENE)
        if not _is_list_of_steps(steps) or not self._learn(steps[-1]):
            return genes, recipe
        if self._leading_to(steps[-1]) != steps:
            return genes, recipe
        long = _in_recipe(steps)
        if recipe.count(long) != 1:
            return genes, recipe
        return genes | {_GENE: steps[-1]}, recipe.replace(long, _in_recipe(steps[-1]))

    def complete(self, genes: Genes, recipe: str) -> tuple[Genes, str]:
        """Inverse of `shorten`, for candidates in the order of their numbers.

        Raises:
            StoreError: an ancestor is missing.
        """
        gene: Any = genes.get(_GENE)
        whole = _is_list_of_steps(gene)
        if not whole and not _is_step(gene):
            return genes, recipe
        last = gene[-1] if whole else gene
        self._learn(last)
        steps = gene if whole else self._leading_to(last)
        if steps is None:
            raise StoreError(f"step {last['number']}: an ancestor of it is missing.")
        return genes | {_GENE: steps}, recipe.replace(_in_recipe(last), _in_recipe(steps), 1)

    def _learn(self, step: dict[str, Any]) -> bool:
        """Keep a step; False where another one has its number."""
        return self._known.setdefault(step["number"], step) == step

    def _leading_to(self, step: dict[str, Any]) -> list[dict[str, Any]] | None:
        """All steps up to this one, sorted by number; None where one is not known."""
        steps = {step["number"]: step}
        waiting = [step]
        while waiting:
            for parent in waiting.pop()["parents"]:
                if isinstance(parent, int) and parent not in steps:
                    if parent not in self._known:
                        return None
                    steps[parent] = self._known[parent]
                    waiting.append(steps[parent])
        return [steps[number] for number in sorted(steps)]


def _is_step(gene: Any) -> bool:
    return isinstance(gene, dict) and {"number", "parents"} <= gene.keys()


def _is_list_of_steps(gene: Any) -> bool:
    return isinstance(gene, list) and bool(gene) and all(map(_is_step, gene))


def _in_recipe(steps: Any) -> str:
    """The gene with these steps as it stands in the canonical JSON of a recipe."""
    return f'"{_GENE}":{json.dumps(steps, sort_keys=True, separators=(",", ":"))}'
