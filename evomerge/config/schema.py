"""A search YAML: its keys and what each may be."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from evomerge.errors import shown
from evomerge.keys import Count, FolderName, Keys, Seed
from evomerge.recipes import ROLES
from evomerge.scoring import Fitness
from evomerge.search.budget import Budget
from evomerge.search.racing.settings import Racing


def _name_alone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _has_name(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("name"), str):
        raise ValueError("needs a name")
    return value


Named = Annotated[dict[str, Any], BeforeValidator(_name_alone), AfterValidator(_has_name)]
NAMED = ("optimizer", "engine", "executor")  # "cmaes" is short for {name: cmaes}


def _racing(value: Any) -> Any:
    if value is True:
        return Racing()
    if value is None or value is False or isinstance(value, Racing):
        return value
    if isinstance(value, dict):
        return Racing.model_validate(value)
    keys = ", ".join(Racing.model_fields)
    raise ValueError(f"expected true, false or the keys {keys}, got {shown(value)}")


RacingKey = Annotated[Literal[False] | Racing | None, BeforeValidator(_racing)]
_CMAES = {"name": "cmaes"}
_INITIAL = ("initial",)
START_WORDS = ("auto", "initial")  # others name files
_SPACE, _BUDGET = "space: dare_ties", "budget: {evaluations: 400}"


def _list_of_starts(value: Any) -> Any:
    every = value if isinstance(value, list | tuple) else [value]
    if value is not None and (wrong := [one for one in every if not _is_start(one)]):
        what = "auto, initial, a recipe's YAML, a run's folder, or parameters with their values"
        raise ValueError(f"expected {what}, or a list of these, got {shown(wrong[0])}")
    return value if value is None else tuple(every) or _INITIAL


def _is_start(one: Any) -> bool:
    return one in START_WORDS if isinstance(one, str) else isinstance(one, dict) and bool(one)


Starts = Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_list_of_starts)]


def _list_of_stages(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple):
        return value
    got = f"the keys {', '.join(list(value)[:9])}" if isinstance(value, dict) else shown(value)
    raise ValueError(
        f"expected a list of stages, got {got}. Begin every stage with '- name: ...', and give "
        "it its own space and budget."
    )


class StageKeys(Keys):
    """One of ``stages:``.

    Attributes:
        name: of the stage; later stages call its best recipe ``stage:NAME``.
        sources: which models vary: names of the search's sources, and ``stage:NAME`` for the best
            recipe of an earlier stage, which is a source called NAME there. By default those of
            the search, behind the stages that ``space`` names.
        space, optimizer, start, racing, budget: as in a search without stages.
    """

    name: FolderName = Field(examples=["name: merge"])
    sources: tuple[str, ...] | None = None
    space: dict[str, Any] = Field(examples=[_SPACE])
    optimizer: Named = _CMAES
    start: Starts | None = None
    racing: RacingKey = None
    budget: Budget = Field(examples=[_BUDGET])


Stages = Annotated[tuple[StageKeys, ...] | None, BeforeValidator(_list_of_stages)]


class SearchFile(Keys):
    """A search YAML.

    Attributes:
        name: of the run and its folder.
        base: the model that task vectors are measured from: a folder, or org/name[@revision].
        sources: name to model.
        stages: in place of space, optimizer and budget: several of these, one after the other.
        space: a preset's name, a path to a YAML, or its keys inline.
        fitness: what is to be improved: a preset's name, a path to a YAML, or its keys inline.
        optimizer, engine, executor: ``name`` and options; a name alone takes the defaults.
        start: where the search starts, for optimizers that can begin at a point: ``auto``, the
            default, tries several and takes the best; ``initial`` is that of the space; the YAML
            of a recipe, the folder of a run for its best one, or parameters with their values; or
            a list of these, of which the best is taken.
        racing: ask a candidate only as many examples as decide where it stands; true, or false; by
            default wherever it is of use, see `evomerge.config.defaults`.
        budget: when to stop.
        seed: of everything that is random.
        dtype: of merged weights; the base's by default.
        tokenizer: ``base`` aligns vocabularies that differ.
        allow_missing: patterns of the names of tensors that models may lack, as in a recipe.
        statistics: source name to a folder made by ``evomerge statistics``.
        experimental: whether operators may be used whose equations could not be checked.
        champions: how many of the best are scored on held-out examples.
        stop_after_failures: give up when this many first candidates all fail.
        build_best: write the best recipe's checkpoint into the run folder at the end.
    """

    name: FolderName
    base: str
    sources: dict[str, str] = Field(min_length=1)
    stages: Stages = None  # validated before the keys that it replaces
    space: dict[str, Any] | None = Field(default=None, validate_default=True, examples=[_SPACE])
    fitness: Fitness
    optimizer: Named | None = Field(default=None, validate_default=True)
    engine: Named = Field(default={"name": "transformers"})
    executor: Named = Field(default={"name": "local"})
    start: Starts | None = Field(default=None, validate_default=True)
    racing: RacingKey = Field(default=None, validate_default=True)
    budget: Budget | None = Field(default=None, validate_default=True, examples=[_BUDGET])
    seed: Seed = 0
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tokenizer: Literal["base"] | None = None
    allow_missing: tuple[Annotated[str, Field(pattern=r"\S")], ...] = ()
    statistics: dict[str, str] = Field(default_factory=dict)
    experimental: bool = False
    champions: Count = 3
    stop_after_failures: Count = 10
    build_best: bool = False

    @field_validator("sources")
    @classmethod
    def _names(cls, sources: dict[str, str]) -> dict[str, str]:
        for name in sources:
            if name in (*ROLES, "base"):
                raise ValueError(f"{name!r} is a word of recipes: call this source differently")
        return sources

    @field_validator("stages")
    @classmethod
    def _at_least_one(cls, stages: tuple[StageKeys, ...] | None) -> tuple[StageKeys, ...] | None:
        if stages == ():
            raise ValueError("name at least one, or give space and budget without stages")
        return stages

    @field_validator("space", "optimizer", "start", "racing", "budget")
    @classmethod
    def _here_or_in_stages(cls, value: Any, info: ValidationInfo) -> Any:
        if "stages" not in info.data:
            return value  # they are wrong, and reported already
        if info.data["stages"] is not None:
            if value is not None:
                raise ValueError("every stage has its own. Move it into the stages")
        elif value is None and info.field_name in ("space", "budget"):
            raise PydanticCustomError("missing", "Field required")
        elif value is None and info.field_name == "optimizer":
            return _CMAES
        return value

    @property
    def parts(self) -> tuple[StageKeys, ...]:
        """The stages; a search without any is one stage that has no name."""
        if self.stages is not None:
            return self.stages
        only = StageKeys.model_construct(
            name="",
            space=self.space,
            optimizer=self.optimizer,
            start=self.start,
            racing=self.racing,
            budget=self.budget,
        )
        return (only,)
