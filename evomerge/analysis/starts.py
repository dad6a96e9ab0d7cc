"""Where the searches of a run started from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.analysis.rows import Row
from evomerge.config.schema import SearchFile
from evomerge.store.records import Event


def chosen_starts(
    file: SearchFile, rows: Sequence[Row], events: Sequence[Event]
) -> Mapping[str, Row]:
    """Stage to the point that its search started from, of those that were tried so far.

    Of a stage that races it is the one that was reported first: a cohort is reported best first.

    Args:
        rows: by number.
    """
    raced = {keys.name for keys in file.parts if keys.racing}
    chosen: dict[str, Row] = {}
    for row in (rows[event.number] for event in events if event.kind == "tell"):
        candidate = row.candidate
        if candidate.kind != "search" or not candidate.label:
            continue
        best = chosen.setdefault(candidate.stage, row)
        if candidate.stage not in raced and _rank(row) > _rank(best):
            chosen[candidate.stage] = row
    return chosen


def _rank(row: Row) -> tuple[float, int]:
    """The larger, the better: of equals, the one that was asked first."""
    value = math.nan if row.search is None else row.search.value
    return -math.inf if math.isnan(value) else value, -row.number
