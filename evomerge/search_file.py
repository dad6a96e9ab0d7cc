"""A search YAML: its keys and what each may be."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from evomerge.recipes import ROLES
from evomerge.scoring import Fitness


class BudgetKeys(BaseModel):
    """``budget:``, see `Budget`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluations: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    gpu_hours: float | None = Field(default=None, gt=0)


class SearchFile(BaseModel):
    """A search YAML.

    Attributes:
        name: of the run and its folder.
        base: the model that task vectors are measured from: a folder, or org/name[@revision].
        sources: name to model.
        space: a preset's name, a path to a YAML, or its keys inline.
        fitness: likewise.
        optimizer, engine, executor: ``name`` and options; a name alone takes the defaults.
        budget: when to stop.
        seed: of everything that is random.
        dtype: of merged weights; the base's by default.
        tokenizer: ``base`` aligns vocabularies that differ.
        statistics: source name to a folder made by ``evomerge statistics``.
        experimental: whether operators may be used whose equations could not be checked.
        champions: how many of the best are scored on held-out examples.
        stop_after_failures: give up when this many first candidates all fail.
        build_best: write the best recipe's checkpoint into the run folder at the end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[\w.-]+$")
    base: str
    sources: dict[str, str] = Field(min_length=1)
    space: dict[str, Any]
    fitness: Fitness
    optimizer: dict[str, Any] = {"name": "cmaes"}
    engine: dict[str, Any] = {"name": "transformers"}
    executor: dict[str, Any] = {"name": "local"}
    budget: BudgetKeys
    seed: int = Field(default=0, ge=0)
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tokenizer: Literal["base"] | None = None
    statistics: dict[str, str] = {}
    experimental: bool = False
    champions: int = Field(default=3, ge=1)
    stop_after_failures: int = Field(default=10, ge=1)
    build_best: bool = False

    @field_validator("optimizer", "engine", "executor", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("optimizer", "engine", "executor")
    @classmethod
    def _has_name(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(value.get("name"), str):
            raise ValueError("needs a name")
        return value

    @field_validator("sources")
    @classmethod
    def _names(cls, sources: dict[str, str]) -> dict[str, str]:
        for name in sources:
            if name in (*ROLES, "base"):
                raise ValueError(f"{name!r} is a word of recipes: call this source differently")
        return sources

    @field_validator("budget")
    @classmethod
    def _limited(cls, budget: BudgetKeys) -> BudgetKeys:
        if budget.evaluations is None and budget.seconds is None and budget.gpu_hours is None:
            raise ValueError("give evaluations, seconds or gpu_hours, or several")
        return budget
