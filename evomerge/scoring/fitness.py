"""A fitness YAML: which tasks, which examples, how their scores add up to one value."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.errors import Problem, WrongValuesError, shown
from evomerge.keys import Count, Keys, Plain, Seed
from evomerge.plugins.user_code import content_digest
from evomerge.types import Split, TaskScores

_LM_EVAL_KEYS = (
    *("held_out", "metric", "filter", "num_fewshot", "search_examples", "held_out_examples"),
)

_SQUARABLE = 1e100  # the sum of the squares of many such scores is a float


class Task(Keys):
    """One task of a fitness: lm-eval's, or a function of the user's own.

    Attributes:
        task: lm-eval's name for it.
        scorer: ``path.py:function`` in its place; see `PythonScorer`. It chooses its own examples:
            of the keys below it takes only ``options`` and ``weight``.
        options: passed to the scorer as its keyword ``options``, where there are any.
        held_out: another lm-eval task with examples that the search never sees.
        metric: which of the task's metrics; None takes its first.
        filter: which of the task's answer filters; None takes its first.
        weight: share in the fitness, relative to the other tasks.
        num_fewshot: overrides the task's own.
        search_examples: search on this many examples, drawn once; None takes all.
        held_out_examples: of the rest, keep this many for the held-out score; None takes all.
    """

    task: str | None = None
    scorer: str | None = None
    options: Plain = Field(default_factory=dict)
    held_out: str | None = None
    metric: str | None = None
    filter: str | None = None
    weight: float = Field(default=1.0, ge=1e-9, le=1e9)
    num_fewshot: int | None = Field(default=None, ge=0)
    search_examples: Count | None = None
    held_out_examples: Count | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Task:
        if (self.task is None) == (self.scorer is None):
            raise ValueError(
                "give either task (lm-eval's name) or scorer (path.py:function), not both"
                if self.task
                else "give task (lm-eval's name) or scorer (path.py:function)"
            )
        if self.scorer is None and self.options:
            text = "they are for a scorer. An lm-eval task has none."
            raise ValueError(Problem(("options",), text))
        unused = [key for key in _LM_EVAL_KEYS if getattr(self, key) is not None]
        if self.scorer is not None and unused:
            text, cure = "for lm-eval tasks.", "Use options: {...}."
            raise WrongValuesError(*(Problem((key,), text, cure) for key in unused))
        return self

    @model_validator(mode="after")
    def _held_out_of_something(self) -> Task:
        if self.held_out_examples is not None and self.examples_from("held_out") is None:
            text = "nothing is held out to take them from."
            cure = "Give it held_out or search_examples."
            raise ValueError(Problem(("held_out_examples",), text, cure))
        return self

    def examples_from(self, split: Split) -> str | None:
        """The lm-eval task with the examples of a split; None where nothing is held out."""
        if split == "search" or self.task is None:
            return self.task
        return self.held_out or (self.task if self.search_examples is not None else None)


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


class Fitness(Keys):
    """What a search maximises: tasks, examples and weights. Names no model, engine or GPU.

    Attributes:
        tasks: name in reports to task; a plain list of lm-eval names is short for the defaults.
        include_path: folder with lm-eval task YAMLs, relative to the fitness file.
        normalize: ``best_source`` divides each task's score by the best source's.
        seed: of the draw of examples.
        shorten: prefer fewer blocks among models that are good enough; scores do not change.
    """

    tasks: dict[str, Task] = Field(min_length=1)
    include_path: str | None = None
    normalize: Literal["none", "best_source"] = "none"
    seed: Seed = 0
    shorten: Shorten | None = None

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, tasks: Any) -> Any:
        if isinstance(tasks, list):
            if wrong := [item for item in tasks if not isinstance(item, str)]:
                raise ValueError(
                    f"expected names of lm-eval tasks, got {shown(wrong[0])}. "
                    "With settings, write name: {task: ...} and no list."
                )
            return {name: {"task": name} for name in tasks}
        if isinstance(tasks, dict):
            return {
                name: {"task": task} if isinstance(task, str) else task
                for name, task in tasks.items()
            }
        return tasks

    @model_validator(mode="after")
    def _held_out_is_unseen(self) -> Fitness:
        if leaks := self.leaks(lambda h, s: _surely_overlap(self.tasks[h], self.tasks[s])):
            raise WrongValuesError(*leaks)
        return self

    def leaks(self, overlap: Callable[[str, str], bool]) -> list[Problem]:
        """A problem for each task that holds out examples which a task searches on.

        Args:
            overlap: whether the held-out examples of one task are among those of another.
        """
        problems = []
        for held, task in self.lm_eval_tasks.items():
            source = task.examples_from("held_out")
            cure = (
                "Name another task in held_out, or give search_examples in its place."
                if task.held_out is not None
                else f"Give both the search_examples of tasks.{held}, or name a task in held_out."
            )
            for searched, other in self.lm_eval_tasks.items():
                if source == other.task and overlap(held, searched):
                    seen = "it" if held == searched else f"tasks.{searched}"
                    text = f"holds out examples of {source} that {seen} searches on."
                    problems.append(Problem(("tasks", held), text, cure))
        return problems

    @property
    def lm_eval_tasks(self) -> dict[str, Task]:
        """The tasks of lm-eval, by name in the fitness."""
        return {name: task for name, task in self.tasks.items() if task.scorer is None}

    @property
    def scorers(self) -> dict[str, Task]:
        """The tasks that a function of the user's scores, by name in the fitness."""
        return {name: task for name, task in self.tasks.items() if task.scorer is not None}

    @property
    def digest(self) -> str:
        """sha256 over all that scores depend on: settings, scorers, files of ``include_path``.

        Raises:
            ConfigError: a scorer's file that is not there.
        """
        # neither a folder's place nor a preference changes a score
        settings = self.model_dump(mode="json", exclude={"include_path", "shorten"})
        for task in settings["tasks"].values():
            options = task.pop("options")
            if (scorer := task.pop("scorer")) is not None:
                task |= {"scorer": content_digest(scorer), "options": options}
        text = json.dumps(settings, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode())
        if self.include_path is not None:
            folder = Path(self.include_path)
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                if file.suffix in {".yaml", ".jsonl", ".json", ".py", ".csv", ".txt"}:
                    digest.update(str(file.relative_to(folder)).encode() + b"\0")
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def _surely_overlap(held: Task, searched: Task) -> bool:
    """Whether two tasks on the same lm-eval task share examples whatever the draw."""
    if searched.search_examples is None:
        return True
    if held.held_out is not None:
        return held.held_out_examples is None
    # both draw from the front of one order
    return searched.search_examples > (held.search_examples or 0)


def fitness_value(
    fitness: Fitness,
    tasks: Mapping[str, TaskScores],
    references: Mapping[str, float] | None = None,
) -> float:
    """Weighted mean of the task scores; higher is better.

    Args:
        tasks: by the task's name in the fitness; tasks without scores do not count.
        references: the best source's score by task, for ``normalize: best_source``; a task that
            no source solves at all counts unnormalized.

    Returns:
        Infinite or NaN where the scores are too large to be added up.
    """
    total = sum(fitness.tasks[name].weight for name in tasks) or 1.0
    parts = [
        (fitness.tasks[name].weight, scores.score, _reference(fitness, name, references))
        for name, scores in tasks.items()
    ]
    with suppress(OverflowError, ValueError):  # the sum may overflow where the mean does not
        mean = math.fsum(weight * score / best for weight, score, best in parts) / total
        if math.isfinite(mean):
            return mean
    return sum(weight / total * (score / best) for weight, score, best in parts)


def shares(fitness: Fitness, references: Mapping[str, float]) -> dict[str, float]:
    """What a point of each task's score is worth in the fitness, up to a common factor."""
    return {
        name: task.weight / _reference(fitness, name, references)
        for name, task in fitness.tasks.items()
    }


def interval(
    fitness: Fitness,
    tasks: Mapping[str, TaskScores],
    references: Mapping[str, float] | None = None,
) -> float:
    """Half width of the 95 % interval of `fitness_value`, from the scatter of the examples.

    Two wins and two losses are added to each task, so that a task solved completely still has
    a width (for scores in [0, 1]).

    Source: Agresti & Coull 1998, The American Statistician 52:119.
    """
    total = sum(fitness.tasks[name].weight for name in tasks)
    largest = max((abs(x) for scores in tasks.values() for x in scores.example_scores), default=0.0)
    scale = largest if largest > _SQUARABLE else 1.0
    variance = 0.0
    for name, scores in tasks.items():
        share = fitness.tasks[name].weight / total / _reference(fitness, name, references)
        examples = [x / scale for x in (*scores.example_scores, 0.0, 0.0, 1.0, 1.0)]
        mean = math.fsum(examples) / len(examples)
        scatter = math.fsum((x - mean) ** 2 for x in examples) / len(examples)
        variance += share * share * scatter / len(examples)
    return 1.96 * math.sqrt(variance) * scale


def _reference(fitness: Fitness, name: str, references: Mapping[str, float] | None) -> float:
    if fitness.normalize == "none" or references is None:
        return 1.0
    reference = references.get(name, 1.0)
    return reference if reference > 0 else 1.0
