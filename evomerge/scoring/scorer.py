"""Scores models on all tasks of a fitness, whether lm-eval's or functions of the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from evomerge.engines import Engine, LanguageModelEngine
from evomerge.errors import CandidateError, ConfigError, Problem
from evomerge.scoring.fitness import Fitness
from evomerge.scoring.lm_eval import LmEvalScorer
from evomerge.scoring.python import PythonScorer
from evomerge.types import Portion, Split, TaskScores

if TYPE_CHECKING:
    from torch import Tensor


class Scorer:
    """Scores models on one split of a fitness.

    Args:
        engine: open; a `LanguageModelEngine` where the fitness has tasks of lm-eval.

    Attributes:
        lm_eval: scores the lm-eval tasks; None where there are none.

    Raises:
        ConfigError: as `LmEvalScorer` and `PythonScorer`.
    """

    def __init__(self, fitness: Fitness, split: Split, engine: Engine) -> None:
        self._fitness, self._split = fitness, split
        self.lm_eval: LmEvalScorer | None = None
        if fitness.lm_eval_tasks:
            assert isinstance(engine, LanguageModelEngine)
            options, seed = engine.lm_eval, engine.seed
            self.lm_eval = LmEvalScorer(fitness, split, engine.lm, options, seed)
        self._python = PythonScorer(fitness, split) if fitness.scorers else None

    @property
    def generation_seconds(self) -> float:
        """Seconds that the model took to answer during the last `score`."""
        parts = (self.lm_eval, self._python)
        return sum(part.generation_seconds for part in parts if part is not None)

    @property
    def generated_tokens(self) -> int:
        """Tokens that the model generated during the last `score`."""
        return 0 if self.lm_eval is None else self.lm_eval.generated_tokens

    def ask_all(self, engine: Engine, portion: Portion | None = None) -> dict[str, Tensor]:
        """(N, E) scores by task, of the tasks that can score several candidates in one pass."""
        return {} if self._python is None else self._python.ask_all(engine.for_all_slots, portion)

    def score(
        self,
        engine: Engine,
        known: Mapping[str, Tensor] | None = None,
        portion: Portion | None = None,
    ) -> dict[str, TaskScores]:
        """Scores by the task's name, in the fitness's order; none where nothing is held out.

        Args:
            known: task to the (E,) scores that `ask_all` gave for this candidate.
            portion: the examples to score; None for all of the split.

        Raises:
            CandidateError: scores that are not finite.
            ConfigError: a task that does not score its examples, or holds nothing out though
                others do.
        """
        scores: dict[str, TaskScores] = {}
        if self.lm_eval is not None:
            assert isinstance(engine, LanguageModelEngine)
            scores = self.lm_eval.score(engine.lm, portion)
        if self._python is not None:
            scores |= self._python.score(engine.module, known, portion)
        asked = self._fitness.tasks if portion is None else portion
        without = [name for name in asked if name not in scores]
        if scores and without:
            text = f"gives no {self._split} scores though others do."
            raise ConfigError(Problem(("tasks", without[0]), text))
        for name, one in scores.items():
            if not all(map(math.isfinite, (one.score, *one.example_scores))):
                raise CandidateError(f"tasks.{name}: a score is not finite")
        return {name: scores[name] for name in self._fitness.tasks if name in scores}


def check_served(fitness: Fitness, engine: type[Engine], name: str) -> None:
    """Raise for tasks of a fitness that an engine, of this name, cannot answer.

    Raises:
        ConfigError: a problem for each task.
    """
    problems = []
    if not issubclass(engine, LanguageModelEngine):
        text = f"lm-eval cannot ask the engine {name}, which is no language model."
        cure = "Give it a scorer, or take engine: transformers."
        problems += [Problem(("tasks", task), text, cure) for task in fitness.lm_eval_tasks]
    if not engine.has_module:
        text = f"the engine {name} has no module for a scorer."
        cure = "Take engine: transformers, or torch."
        problems += [Problem(("tasks", task), text, cure) for task in fitness.scorers]
    if problems:
        raise ConfigError(problems)
