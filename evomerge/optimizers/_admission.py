"""When results enter an archive: in the order asked, or as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from evomerge.errors import ConfigError
from evomerge.types import Evaluation

Insert = Literal["asked", "finished"]


class AdmissionQueue:
    """Candidates that are asked, until their results have entered.

    Args:
        insert: in the order ``asked``, so that early results wait for those of earlier candidates,
            or as they are ``finished``.
        lag: how many candidates may be ahead of the archive; None for any number.
        admit: takes a candidate and its evaluation when it is its turn.

    Attributes:
        asked: numbers of the candidates in the order asked.

    Raises:
        ConfigError: a lag where candidates enter as they are finished.
    """

    def __init__(
        self, insert: Insert, lag: int | None, admit: Callable[[int, Evaluation], None]
    ) -> None:
        if lag is not None and insert == "finished":
            raise ConfigError(
                "optimizer.lag: says which candidates have entered the archive, which with "
                "insert: finished is chance. Set insert: asked, or leave out lag."
            )
        self._insert, self._lag, self._admit = insert, lag, admit
        self.asked: list[int] = []
        self._waiting: dict[int, Evaluation] = {}
        self._entered = 0  # of those asked, failed ones included

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in a result, and admit those whose turn has come."""
        self._waiting[number] = evaluation
        if self._insert == "finished":
            self._enter(number)
        elif self._lag is None:
            self._enter_first(len(self.asked))

    def is_ready(self, least: int) -> bool:
        """Whether the next candidate's parents may be chosen.

        Under a lag this admits the results that the candidate may depend on, and no later ones.

        Args:
            least: how many results must have entered in any case.
        """
        if self._lag is not None:
            least = max(least, len(self.asked) + 1 - self._lag)
            self._enter_first(least)
        return self._entered >= least

    def _enter_first(self, count: int) -> None:
        """Admit the first ``count`` candidates asked, up to one without a result."""
        while self._entered < count and self.asked[self._entered] in self._waiting:
            self._enter(self.asked[self._entered])

    def _enter(self, number: int) -> None:
        self._entered += 1
        self._admit(number, self._waiting.pop(number))
