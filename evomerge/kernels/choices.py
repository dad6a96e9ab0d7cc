"""The words that a parameter of several operators may be."""

from __future__ import annotations

from typing import Literal

Consensus = Literal["sum", "count"]
Method = Literal["magnitude", "random", "della", "breadcrumbs"]
Negative = Literal["subtract", "elect"]
Norm = Literal["l1", "l2", "linf"]
Rescale = Literal["inverse", "l1", "none"]
Scope = Literal["tensor", "global"]
Space = Literal["weights", "task_vector"]
