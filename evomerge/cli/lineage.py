"""Where a candidate comes from: lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.tree import Tree

from evomerge.cli._console import console, print_json

if TYPE_CHECKING:
    from evomerge.analysis.ancestry import Ancestor, Ancestry

_MOST_ROWS = 20


def lineage(
    folder: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    candidate: Annotated[str, typer.Option(help="A candidate's number, or 'best'.")] = "best",
    depth: Annotated[int, typer.Option(min=1, help="How many generations the tree shows.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print data as JSON.")] = False,
) -> None:
    """Show whom a candidate descends from, why they were crossed, and what each gave."""
    from evomerge.analysis.run import Run
    from evomerge.reports.candidate import search_score
    from evomerge.reports.table import short

    run = Run.open(folder)
    ancestry = run.ancestry(candidate)
    if as_json:
        print_json(asdict(ancestry))
        return
    scores = {
        one.number: search_score(run, run.rows[one.number])
        if one.value is None
        else short(one.value)
        for one in ancestry.ancestors
    }
    out = console(width=200)
    out.print(_tree(ancestry, depth, scores))
    if ancestry.sources:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in ancestry.sources.items())
        out.print()
        out.print(f"sources    {shares}")
    if len(ancestry.ancestors) > 1:
        out.print(_table(ancestry, scores))
    if len(ancestry.ancestors) > _MOST_ROWS + 1:
        more = len(ancestry.ancestors) - 1 - _MOST_ROWS
        out.print(f"and {more} more ancestors: --json has all")


def _tree(ancestry: Ancestry, depth: int, scores: Mapping[int, str]) -> Tree:
    """Every ancestor once with its parents, elsewhere by its number."""
    known = {one.number: one for one in ancestry.ancestors}
    root = Tree(_line(known[ancestry.candidate], scores))
    shown = {ancestry.candidate}
    level = [(root, ancestry.candidate)]
    for generation in range(depth):
        below: list[tuple[Tree, int]] = []
        for branch, number in level:
            for parent in dict.fromkeys(known[number].parents):
                again = parent in shown
                line = f"{parent}, see elsewhere" if again else _line(known[parent], scores)
                if not again and generation == depth - 1 and known[parent].parents:
                    line += " …"
                twig = branch.add(line)
                if not again:
                    shown.add(parent)
                    below.append((twig, parent))
        level = below
    return root


def _line(one: Ancestor, scores: Mapping[int, str]) -> str:
    genes = one.genes
    parts = [f"{one.number}", *([scores[one.number]] if scores[one.number] else [])]
    if "source" in genes:
        parts.append(f"source {genes['source']}")
    for name in genes:
        if name.startswith("split[") and len(one.parents) == 2:
            word = name.removeprefix("split")
            parts.append(
                f"{word.strip('[]')} split at {genes[name]:.3f}, ratio {genes[f'ratio{word}']:.3f}"
            )
    if "chosen_by" in genes:
        parts.append(f"parents {_why(one)}")
    return "  ".join(parts)


def _why(one: Ancestor) -> str:
    genes = one.genes
    names = [str(parent) for parent in one.parents]
    for place, name in enumerate(names):
        if f"fitness[{place}]" in genes:
            names[place] = f"{name} (fitness {genes[f'fitness[{place}]']:.3f})"
    if genes["chosen_by"] == "attraction":
        names[-1] = f"{names[-1][:-1]}, attraction {genes['attraction']:.3f})"
    return f"{' and '.join(names)} by {genes['chosen_by']}"


def _table(ancestry: Ancestry, scores: Mapping[int, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("ancestor", "fitness", "share of the weights", "parents", "source"):
        table.add_column(column)
    others = sorted(ancestry.ancestors[1:], key=lambda one: (-(one.share or 0), one.number))
    for one in others[:_MOST_ROWS]:
        table.add_row(
            str(one.number),
            scores[one.number],
            "" if one.share is None else f"{one.share:.1%}",
            ", ".join(map(str, one.parents)),
            str(one.genes.get("source", "")),
        )
    return table
