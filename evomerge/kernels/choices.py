"""Types of the YAML keys that several operators share; importing them needs no torch."""

from __future__ import annotations

from typing import Literal

Consensus = Literal["sum", "count"]  # how a sign is elected
Method = Literal["magnitude", "random", "della", "breadcrumbs"]  # how a task vector is sparsified
Negative = Literal["subtract", "elect"]  # what a source of negative weight does in an election
Norm = Literal["l1", "l2", "linf"]  # what is restored after sparsifying
Rescale = Literal["inverse", "l1", "none"]  # what makes up for dropped elements
Scope = Literal["tensor", "global"]  # over what elements are ranked and counted
AveragingSpace = Literal["weights", "task_vector"]  # what is averaged
