"""What a finished run says of the rest of its budget."""

from __future__ import annotations

from evomerge.analysis.run import Run

_WORTH_TELLING = 1 / 8  # of a limit


def left(run: Run) -> list[str]:
    """How much is left of limits that do not depend on time, where it is no small rest.

    The optimizer has converged, or what was left did not reach for another cohort.
    """
    lines = []
    for keys in run.file.parts if run.record.finished_utc is not None else ():
        rows = [row for row in run.candidates if row.candidate.kind == "search"]
        own = {row.number: row for row in rows if row.candidate.stage == keys.name}
        # a recipe is asked nothing twice
        scores = {row.recipe.digest: row.search or row.part for row in own.values()}
        asked = {
            "evaluations": len(own),
            "examples": sum(score.examples for score in scores.values() if score is not None),
        }
        stage = f"{keys.name}: " if keys.name else ""
        lines += [
            f"{stage}left of the budget: {limit - asked[key]:,} of {limit:,} {key}"
            for key in asked
            if (limit := getattr(keys.budget, key)) is not None
            and limit - asked[key] >= _WORTH_TELLING * limit
        ]
    return lines
