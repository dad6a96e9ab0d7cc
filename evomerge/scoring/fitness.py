"""A fitness YAML: which tasks, which examples, how they add up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Task(BaseModel):
    """One lm-eval task of a fitness.

    Attributes:
        task: lm-eval's name for it.
        held_out: another lm-eval task with examples that the search never sees.
        metric: which of the task's metrics; None takes its first.
        filter: which of the task's answer filters; None takes its first.
        weight: share in the fitness, relative to the other tasks.
        num_fewshot: overrides the task's own.
        search_examples: search on this many examples, drawn once; None takes all.
        held_out_examples: of the rest, keep this many for the held-out score; None takes all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    held_out: str | None = None
    metric: str | None = None
    filter: str | None = None
    weight: float = Field(default=1.0, gt=0)
    num_fewshot: int | None = Field(default=None, ge=0)
    search_examples: int | None = Field(default=None, ge=1)
    held_out_examples: int | None = Field(default=None, ge=1)


class Fitness(BaseModel):
    """What is good. Names no model, engine or GPU.

    Attributes:
        tasks: name in reports to task; a plain list of lm-eval names is short for the defaults.
        include_path: folder with lm-eval task YAMLs, relative to the fitness file.
        normalize: ``best_source`` divides each task's score by the best source's.
        seed: of the draw of examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: dict[str, Task] = Field(min_length=1)
    include_path: str | None = None
    normalize: Literal["none", "best_source"] = "none"
    seed: int = Field(default=0, ge=0)

    @field_validator("tasks", mode="before")
    @classmethod
    def _names_alone(cls, tasks: Any) -> Any:
        if isinstance(tasks, list):
            return {name: {"task": name} for name in tasks if isinstance(name, str)}
        if isinstance(tasks, dict):
            return {
                name: {"task": task} if isinstance(task, str) else task
                for name, task in tasks.items()
            }
        return tasks

    @property
    def digest(self) -> str:
        """sha256 over the settings and the files of ``include_path``, wherever they lie."""
        digest = hashlib.sha256(self.model_dump_json(exclude={"include_path"}).encode())
        if self.include_path is not None:
            folder = Path(self.include_path)
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                if file.suffix in {".yaml", ".jsonl", ".json", ".py", ".csv", ".txt"}:
                    digest.update(str(file.relative_to(folder)).encode() + b"\0")
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()
