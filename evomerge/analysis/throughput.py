"""How fast a run is, and where its workers' time went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evomerge.store import Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one worker did with its time.

    Attributes:
        evaluations: how many it finished.
        merge, generation, scoring, waiting: fractions of the run's search time, in [0, 1], which
            sum to 1; time spent on evaluations that were lost counts as waiting.
        tokens_per_second: generated, per second in which the engine answered; None where it
            generated nothing, or an older version did not count.
    """

    worker: str
    evaluations: int
    merge: float
    generation: float
    scoring: float
    waiting: float
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast a run is, and how its workers spent their time.

    Attributes:
        candidates_per_hour: None before any search time has passed.
        workers: none in runs of versions that did not record them.
    """

    candidates_per_hour: float | None
    workers: tuple[Share, ...]


def throughput(elapsed_seconds: float, reported: int, spent: Iterable[Spent]) -> Throughput:
    """The throughput of a run so far.

    Args:
        elapsed_seconds: its search time.
        reported: how many candidates have their results.
        spent: what each worker did; see `Store.spent`.
    """
    shares = []
    for row in spent:
        # held-out evaluations come after the last event, where the clock stands already
        total = max(elapsed_seconds, row.merge_seconds + row.score_seconds)
        if total > 0:
            merge, generation = row.merge_seconds / total, row.generation_seconds / total
            scoring = row.score_seconds / total - generation
            speed = row.generated_tokens / row.generation_seconds if row.generated_tokens else None
            shares.append(
                Share(
                    worker=row.worker,
                    evaluations=row.evaluations,
                    merge=merge,
                    generation=generation,
                    scoring=scoring,
                    waiting=max(0.0, 1 - merge - generation - scoring),
                    tokens_per_second=speed,
                )
            )
    per_hour = reported / elapsed_seconds * 3600 if elapsed_seconds > 0 else None
    return Throughput(per_hour, tuple(shares))
