"""The preference for fewer blocks among models that are good enough."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Shorten(BaseModel):
    """Fewer blocks, as long as the score stays within a share of the leading model's.

    Attributes:
        within: the share of that score that may be lost, in [0, 1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    within: float = Field(ge=0, lt=1)

    def floor(self, leading: float) -> float:
        """The least score that is good enough where the leading model has this one."""
        return leading - self.within * abs(leading)

    def preference(self, score: float, leading: float, depth: int) -> float:
        """What an optimizer is told, and what the best candidates are chosen by.

        Below the floor f, the leading model's score s less ``within * |s|``, it is the score. From
        the floor on it is f + 1 / (depth + 1 - e), where e in [0, 1) grows with the score above f:
        every good model is worth more than all that are not, of two good ones the one with fewer
        blocks more, and of as many blocks the one with the higher score.

        Args:
            score: the candidate's, higher is better.
            leading: that of the model whose blocks are left out.
            depth: the candidate's blocks, at least 1.
        """
        floor = self.floor(leading)
        if not score >= floor:
            return score
        above = score - floor
        return floor + 1 / (depth + 1 - above / (1 + above))
