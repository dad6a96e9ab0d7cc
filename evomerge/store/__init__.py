"""The run's database: what was tried, when, and what came out.

A run folder holds ``run.sqlite``, which any SQLite program can read. Its tables are described in
`evomerge.store.schema`; the views ``leaderboard`` and ``candidate_scores`` answer most questions.
"""

from evomerge.store.evaluations import Spent
from evomerge.store.records import Event, RunRecord
from evomerge.store.store import Store

__all__ = ["Event", "RunRecord", "Spent", "Store"]
