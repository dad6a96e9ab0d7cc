"""Preferring fewer blocks among models that are good enough."""

from __future__ import annotations

import math

from pydantic import Field

from evomerge.keys import Keys


class Shorten(Keys):
    """Prefer fewer blocks as long as the score stays within a share of the leading model's.

    Attributes:
        within: the share of that score that may be lost, in [0, 1).
    """

    within: float = Field(ge=0, lt=1)

    def floor(self, leading: float) -> float:
        """The lowest score that counts as good enough.

        Args:
            leading: the score of the model whose blocks are left out.
        """
        return leading - self.within * abs(leading)

    def preference(self, score: float, leading: float, depth: int) -> float:
        """The number that replaces the score: optimizers maximise it, candidates are ranked by it.

        Below the `floor` f it is the score. From f on it is f + 1 / (depth + 1 - e), where e in
        [0, 1) grows with the score above f. Good models come before all others, among good ones
        fewer blocks come first, and at equal depth the higher score.

        Args:
            score: the candidate's, higher is better.
            leading: as for `floor`.
            depth: the candidate's blocks, at least 1.
        """
        floor = self.floor(leading)
        if not score >= floor:
            return score
        above = score - floor
        share = above / (1 + above) if math.isfinite(above) else 1.0
        return floor + 1 / (depth + 1 - share)
