"""What a stage of a search has used up of its budget."""

from __future__ import annotations

from evomerge.search.budget import Asked, Budget, Reading


class Spending:
    """A budget, and what was asked since it began to count.

    Args:
        budget: of one stage.
        began: the time from which it counts.

    Attributes:
        asked: candidates of the search, and what was asked of them.
        tokens_before: generated in answers to portions, before it began.
    """

    def __init__(self, budget: Budget, began: Reading) -> None:
        self._budget, self._began = budget, began
        self.asked = Asked()
        self.tokens_before = 0

    def __str__(self) -> str:
        """How much of each limit that does not depend on time is left."""
        limits = [
            (name, asked, limit)
            for name, asked in self.asked._asdict().items()
            if (limit := getattr(self._budget, name)) is not None
        ]
        left = [f"{limit - asked:,} of {limit:,} {name}" for name, asked, limit in limits]
        return " and ".join(left or ["time"]) + " left"

    @property
    def share(self) -> float:
        """How much was asked of what may be asked; 0 where only time is limited."""
        limits = [
            asked / limit
            for name, asked in self.asked._asdict().items()
            if (limit := getattr(self._budget, name)) is not None
        ]
        return min(1.0, max(limits, default=0.0))

    def ask(self, examples: int) -> None:
        """Count one more candidate, and so many examples: of it, or of the cohort it begins."""
        asked = self.asked
        self.asked = asked._replace(
            evaluations=asked.evaluations + 1, examples=asked.examples + examples
        )

    def give_back(self, examples: int) -> None:
        """Count so many examples less: a cohort was asked fewer than it might have been."""
        self.asked = self.asked._replace(examples=self.asked.examples - examples)

    def generate(self, tokens: int) -> None:
        """Count tokens of more answers."""
        self.asked = self.asked._replace(tokens=self.asked.tokens + tokens)

    def count_tokens(self, tokens: int) -> None:
        """Take in how many tokens all answers to portions had so far."""
        self.asked = self.asked._replace(tokens=tokens - self.tokens_before)

    def reaches(self, more: Asked) -> bool:
        """Whether so much more can be asked within the limits that do not depend on time."""
        return self._budget.affords(self.asked, more)

    def has_time(self, now: Reading) -> bool:
        """Whether no limit of time is reached."""
        return self._budget.has_time(now.since(self._began))
