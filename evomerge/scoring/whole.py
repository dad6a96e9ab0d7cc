"""One split of a fitness, whatever scores its tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from evomerge.engines import LmEvalOptions
from evomerge.errors import ConfigError
from evomerge.scoring.fitness import Fitness
from evomerge.scoring.lm_eval import LmEvalScorer
from evomerge.scoring.python import PythonScorer
from evomerge.types import Split, TaskScores

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import Tensor
    from torch.nn import Module


class Live(Protocol):
    """A live model, as far as it is asked: an `Engine`."""

    @property
    def lm_eval(self) -> LmEvalOptions:
        """How lm-eval asks it."""

    @property
    def lm(self) -> LM:
        """Answers lm-eval's requests."""

    @property
    def module(self) -> Module:
        """Is given to Python scorers."""

    def at_all(self, function: Callable[[Module], Tensor]) -> Tensor:
        """What a function of `module` gives for several candidates."""


class Scorer:
    """lm-eval's tasks and Python's, side by side.

    Args:
        live: what will be asked; of an engine without ``lm`` or ``module``, that is not touched
            where no task wants it.

    Attributes:
        lm_eval: what asks lm-eval's tasks; None without one.

    Raises:
        ConfigError: as `LmEvalScorer` and `PythonScorer`.
    """

    def __init__(self, fitness: Fitness, split: Split, live: Live) -> None:
        self._fitness, self._split = fitness, split
        asked = fitness.lm_eval_tasks
        self.lm_eval = LmEvalScorer(fitness, split, live.lm, live.lm_eval) if asked else None
        self._python = PythonScorer(fitness, split) if fitness.scorers else None

    @property
    def generation_seconds(self) -> float:
        """In which the model answered, in the last `score`."""
        parts = (self.lm_eval, self._python)
        return sum(part.generation_seconds for part in parts if part is not None)

    @property
    def generated_tokens(self) -> int:
        """Of the answers to the last `score`."""
        return 0 if self.lm_eval is None else self.lm_eval.generated_tokens

    def ask_all(self, live: Live) -> dict[str, Tensor]:
        """(N, E) by task, of those that can be asked of several candidates in one pass."""
        return {} if self._python is None else self._python.ask_all(live.at_all)

    def score(self, live: Live, known: Mapping[str, Tensor] | None = None) -> dict[str, TaskScores]:
        """Scores by the task's name, in the fitness's order; none where nothing is held out.

        Args:
            known: (E,) what `ask_all` found for this candidate, by task.

        Raises:
            CandidateError: scores that are not finite.
            ConfigError: a task that does not score its examples, or holds nothing out though
                others do.
        """
        found = {} if self.lm_eval is None else self.lm_eval.score(live.lm)
        if self._python is not None:
            found |= self._python.score(live.module, known)
        return self._in_order(found)

    def _in_order(self, found: dict[str, TaskScores]) -> dict[str, TaskScores]:
        without = [name for name in self._fitness.tasks if name not in found]
        if found and without:
            raise ConfigError(
                f"tasks.{without[0]}: gives no {self._split} scores though others do."
            )
        return {name: found[name] for name in self._fitness.tasks if name in found}
