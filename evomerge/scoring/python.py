"""Tasks scored by functions of the user's own: a module in, a score for every example out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import CandidateError, ConfigError, Problem
from evomerge.plugins.user_code import load_function
from evomerge.scoring.fitness import Fitness, Task
from evomerge.types import Portion, Split, TaskScores

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

log = logging.getLogger(__name__)

Scoring = Callable[..., Any]  # (module, split), and examples where it takes them
ForAllSlots = Callable[[Callable[["Module"], "torch.Tensor"]], "torch.Tensor"]


class PythonScorer:
    """Scores models on the tasks of a fitness that name a ``scorer``, one split of them.

    A scorer is a function of a live module, in evaluation mode and without gradients, and of a
    split, ``search`` or ``held_out``. It returns one number an example, (E,), higher is better, as
    an array, a tensor or a list; the same examples in the same order at every call. Whatever else
    it returns fails the candidate, and so does an exception: if that is so of every baseline, the
    search ends. An empty answer to ``held_out`` says that it holds nothing out. The task's score is
    the mean. One that also takes ``examples``, a list of E ascending indices of the split's
    examples or None for all, can be asked about some of them, as racing does.

    Attributes:
        generation_seconds: for which the functions ran, in the last `score`.

    Raises:
        ConfigError: no such file or function, or one that takes other arguments.
    """

    def __init__(self, fitness: Fitness, split: Split) -> None:
        self.generation_seconds = 0.0
        self._split = split
        self._functions = {name: load_scorer(name, task) for name, task in fitness.scorers.items()}
        self._where = {name: _where(name, task) for name, task in fitness.scorers.items()}
        self._together: dict[str, bool] = {}

    def ask_all(
        self, for_all_slots: ForAllSlots, portion: Portion | None = None
    ) -> dict[str, torch.Tensor]:
        """(N, E) scores by task of several modules, in one pass, of functions that can do that.

        Whether a function can is seen at its first pass. One that fails later cannot score some
        candidate, and says which when each is scored alone.

        Args:
            for_all_slots: `Engine.for_all_slots`.
            portion: as `score` takes it.
        """
        import torch

        scores_NE: dict[str, torch.Tensor] = {}
        for name, function in self._asked(portion).items():
            if not self._together.get(name, True):
                continue

            def asked(module: Module, call: Scoring = function) -> torch.Tensor:
                answer: torch.Tensor = call(module, self._split)
                return answer

            try:
                with torch.no_grad():
                    scores_NE[name] = for_all_slots(asked)
            except Exception as error:
                if self._together.setdefault(name, False):
                    continue
                log.info("%s is asked of one candidate at a time: %s", name, error)
            else:
                self._together[name] = True
        return scores_NE

    def score(
        self,
        module: Module,
        known: Mapping[str, torch.Tensor] | None = None,
        portion: Portion | None = None,
    ) -> dict[str, TaskScores]:
        """Call every scorer whose scores are not known; scores by the task's name in the fitness.

        Args:
            known: task to the (E,) scores that `ask_all` gave for this module.
            portion: the examples to score; None for all.

        Raises:
            CandidateError: a scorer fails, or returns something else than finite scores.
        """
        import torch

        started = time.perf_counter()
        answers: dict[str, Any] = dict(known or {})
        with torch.no_grad():
            for name, function in self._asked(portion).items():
                if name not in answers:
                    answers[name] = self._ask(name, function, module)
        self.generation_seconds = time.perf_counter() - started
        results = {
            name: self.read(name, answer, None if portion is None else portion[name])
            for name, answer in answers.items()
        }
        return {name: scores for name, scores in results.items() if scores is not None}

    def _asked(self, portion: Portion | None) -> dict[str, Scoring]:
        """The functions to call, each asked about its examples of the portion."""
        if portion is None:
            return self._functions
        return {
            name: partial(function, examples=list(portion[name]))
            for name, function in self._functions.items()
            if name in portion
        }

    def _ask(self, name: str, function: Scoring, module: Module) -> Any:
        try:
            return function(module, self._split)
        except (Exception, SystemExit) as error:
            text = f"{self._where[name]}: failed: {type(error).__name__}: {error}"
            raise CandidateError(text) from error

    def read(
        self, name: str, answer: Any, examples: tuple[int, ...] | None = None
    ) -> TaskScores | None:
        """What a scorer has returned; None where it holds nothing out.

        Args:
            examples: those that it was asked about; None where it was asked about all.

        Raises:
            CandidateError: something else than finite scores.
        """
        where = f"{self._where[name]}: expected one score an example, (E,)"
        scores_E = _numbers(answer)
        if scores_E is None:
            raise CandidateError(f"{where}, as numbers, got {_shown(answer)}")
        if scores_E.ndim != 1:
            raise CandidateError(f"{where}, got the shape {scores_E.shape}")
        count = len(scores_E)
        if examples is not None and count != len(examples):
            raise CandidateError(f"{where}, asked about {len(examples)}, got {count}")
        if not count and self._split == "held_out":
            return None
        if not count:
            raise CandidateError(f"{where}, got none to search by")
        if wrong := int((~np.isfinite(scores_E)).sum()):
            raise CandidateError(f"{where}, got {wrong} of {count} that are not finite")
        with np.errstate(over="ignore"):
            mean = float(scores_E.mean())
        if not np.isfinite(mean):  # the sum overflows, the mean does not
            mean = float((scores_E / count).sum())
        ids = tuple(range(count)) if examples is None else examples
        return TaskScores(mean, ids, tuple(scores_E.tolist()))


def count_mismatch(
    fitness: Fitness, scores: Mapping[str, TaskScores], others: Mapping[str, TaskScores]
) -> str | None:
    """What is wrong where a scorer gave one model more or fewer scores than another.

    Args:
        scores, others: of the two models, by the task's name in the fitness.
    """
    for name, task in fitness.scorers.items():
        if name in scores and name in others:
            got, before = len(scores[name].doc_ids), len(others[name].doc_ids)
            if got != before:
                return (
                    f"{_where(name, task)}: expected {before} scores, as of the model before, got "
                    f"{got}. Give one for every example, and the same examples for every model."
                )
    return None


def scorer_problems(fitness: Fitness) -> list[Problem]:
    """What is wrong with each scorer that cannot be called; their files are run."""
    problems: list[Problem] = []
    for name, task in fitness.scorers.items():
        try:
            load_scorer(name, task)
        except ConfigError as error:
            problems += error.details
    return problems


def load_scorer(name: str, task: Task) -> Scoring:
    """The function that scores a task, its options given.

    Raises:
        ConfigError: no such file or function, or one that takes other arguments.
    """
    assert task.scorer is not None
    keywords: dict[str, Any] = {"options": dict(task.options)} if task.options else {}
    try:
        function = load_function(task.scorer, "module", "split", **keywords)
    except ConfigError as error:
        raise ConfigError([p.under("tasks", name, "scorer") for p in error.details]) from None
    return partial(function, **keywords)


def _where(name: str, task: Task) -> str:
    """The task, its file and its function, as messages name them."""
    assert task.scorer is not None
    return f"tasks.{name}: {Path(task.scorer).name}"


def _numbers(answer: Any) -> NDArray[np.float64] | None:
    """What a scorer returned as an array; None where it is no array of real numbers."""
    import torch

    if isinstance(answer, torch.Tensor):
        if answer.is_complex():
            return None
        answer = answer.detach().to("cpu", torch.float64)
    try:
        array = np.asarray(answer)
    except (TypeError, ValueError):  # rows of several lengths
        return None
    # not text that looks like a number; an empty list becomes an array of floats
    return array.astype(np.float64) if array.dtype.kind in "biuf" else None


def _shown(answer: Any) -> str:
    """The type of a value, and the start of its repr."""
    text = " ".join(repr(answer).split())
    return f"{type(answer).__name__} {text[:60]}{'...' if len(text) > 60 else ''}"
