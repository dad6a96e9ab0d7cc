"""A fitness YAML: which tasks, which examples, how their scores add up to one value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.errors import Problem, WrongValuesError, shown
from evomerge.keys import Count, Keys, Plain, Seed
from evomerge.plugins.registry import did_you_mean
from evomerge.plugins.user_code import content_digest
from evomerge.scoring.objectives import Aims, Objective
from evomerge.scoring.shorten import Shorten
from evomerge.types import Aim, Split

_LM_EVAL_KEYS = (
    *("held_out", "metric", "filter", "num_fewshot", "search_examples", "held_out_examples"),
)

# what changes no score: a folder's place, and preferences
_NO_SCORES = {"include_path", "shorten", "objectives", "floor"}


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


class Fitness(Aims):
    """What a search maximises: tasks, examples and weights. Names no model, engine or GPU.

    Attributes:
        tasks: name in reports to task; a plain list of lm-eval names is short for the defaults.
        include_path: folder with lm-eval task YAMLs, relative to the fitness file.
        normalize: ``best_source`` divides each task's score by the best source's.
        seed: of the draw of examples.
        shorten: prefer fewer blocks among models that are good enough; scores do not change.
        objectives, floor: see `Aims`; scores do not change.
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

    @model_validator(mode="after")
    def _objectives_are_known(self) -> Fitness:
        problems = [
            Problem(
                ("objectives", name, "tasks"),
                f"{shown(task)} is no task of the fitness.",
                did_you_mean(task, self.tasks),
            )
            for name, objective in (self.objectives or {}).items()
            for task in objective.tasks or ()
            if task not in self.tasks
        ]
        for name in self.floor or ():
            if name not in self.aims:
                text = f"{shown(name)} is no objective."
                problems.append(Problem(("floor", name), text, did_you_mean(name, self.aims)))
            elif self.aims[name].sign < 0:
                text = f"{name} is minimized, and a floor is the least of what is maximized."
                problems.append(Problem(("floor", name), text, "Remove it."))
        if problems:
            raise WrongValuesError(*problems)
        return self

    @property
    def aims(self) -> dict[str, Objective]:
        """What models are weighed by: the objectives, or else each task."""
        return self.objectives or {name: Objective(tasks=(name,)) for name in self.tasks}

    @property
    def aim(self) -> Aim:
        """What an optimizer is to know of it."""
        return Aim(tuple(self.aims), several=self.objectives is not None, floors=bool(self.floor))

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
        settings = self.model_dump(mode="json", exclude=_NO_SCORES)
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
