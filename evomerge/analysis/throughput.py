"""Where the time of a run went, by worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evomerge.store import Store


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's time.

    Attributes:
        merge, generation, scoring, waiting: fractions of the run's search time, in [0, 1], which
            sum to 1; what a worker did in lost evaluations counts as waiting.
        tokens_per_second: generated, per second in which the engine answered; None where it
            generated nothing, and where an older version counted none.
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
    """How fast a run is, and what its workers did; None before the clock ran."""

    candidates_per_hour: float | None
    workers: tuple[Share, ...]

    def as_json(self) -> dict[str, Any]:
        """The usage for ``--json``."""
        return {
            "candidates_per_hour": self.candidates_per_hour,
            "workers": [
                {name: getattr(share, name) for name in Share.__slots__} for share in self.workers
            ],
        }


def read_throughput(store: Store) -> Throughput:
    """What a store tells of the time so far. Runs of older versions name no workers."""
    elapsed = store.elapsed_seconds()
    shares = []
    for row in store.spent():
        # held-out evaluations come after the last event, where the clock stands already
        total = max(elapsed, row.merge_seconds + row.score_seconds)
        if total > 0:
            merge, generation = row.merge_seconds / total, row.generation_seconds / total
            scoring = row.score_seconds / total - generation
            waiting = max(0.0, 1 - merge - generation - scoring)
            speed = row.generated_tokens / row.generation_seconds if row.generated_tokens else None
            shares.append(
                Share(row.worker, row.evaluations, merge, generation, scoring, waiting, speed)
            )
    told = sum(event.kind == "tell" for event in store.events())
    return Throughput(told / elapsed * 3600 if elapsed > 0 else None, tuple(shares))
