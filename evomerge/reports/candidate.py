"""One candidate of a run, in words."""

from __future__ import annotations

from evomerge.analysis.rows import Row, Score
from evomerge.analysis.run import Run
from evomerge.reports.table import name, share, with_interval


def search_score(run: Run, row: Row) -> str:
    """The score on search examples; of a candidate that was asked some, on how many of how many."""
    if row.search is not None or row.part is None:
        return with_interval(row.search)
    of = "" if run.search_examples is None else f" of {run.search_examples}"
    return f"{with_interval(row.part)} ({row.part.examples}{of})"


def described(run: Run, row: Row) -> list[str]:
    """What a candidate is, and what came out for it."""
    candidate = row.candidate
    named = [name(row), *([candidate.label] if candidate.label not in ("", name(row)) else [])]
    stage = f", stage {candidate.stage}" if candidate.stage else ""
    lines = [f"{': '.join(named)}{stage}, {row.status}"]
    if text := search_score(run, row):
        lines.append(f"search      {text}{_by_task(row.search or row.part)}")
    if row.held_out is not None:
        lines.append(f"held-out    {with_interval(row.held_out)}{_by_task(row.held_out)}")
    if candidate.genome.parents:
        lines.append(f"parents     {', '.join(map(str, candidate.genome.parents))}")
    return [*lines, *([] if row.error is None else [f"error       {row.error}"])]


def _by_task(score: Score | None) -> str:
    tasks = {} if score is None else score.tasks
    return "".join(f", {task} {share(value)}" for task, value in tasks.items())
