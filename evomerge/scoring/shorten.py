"""A preference for fewer blocks among models that are good enough."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Shorten(BaseModel):
    """Prefer fewer blocks as long as the score stays within a share of the leading model's.

    Attributes:
        within: the share of that score that may be lost, in [0, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    within: float = Field(ge=0, lt=1)

    def floor(self, leading: float) -> float:
        """The least score that is good enough.

        Args:
            leading: the score of the model whose blocks are left out.
        """
        return leading - self.within * abs(leading)

    def preference(self, score: float, leading: float, depth: int) -> float:
        """What the optimizer maximises in place of the score, and what candidates are ranked by.

        Below the `floor` f it is the score. From f on it is f + 1 / (depth + 1 - e), where e in
        [0, 1) grows with the score above f: every good model comes before all that are not, of two
        good ones that with fewer blocks, and of as many blocks that with the higher score.

        Args:
            score: the candidate's, higher is better.
            leading: as for `floor`.
            depth: the candidate's blocks, at least 1.
        """
        floor = self.floor(leading)
        if not score >= floor:
            return score
        above = score - floor
        return floor + 1 / (depth + 1 - above / (1 + above))
