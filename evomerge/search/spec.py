"""What a search is made of, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evomerge.errors import ConfigError, Problem
from evomerge.executors import Executor
from evomerge.optimizers import Optimizer
from evomerge.recipes import Recipe
from evomerge.search.budget import Budget
from evomerge.search.racing.settings import Racing
from evomerge.spaces import SearchContext, Space
from evomerge.store import RunRecord
from evomerge.types import Parameter, Proposal
from evomerge.worker import WorkerSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One of the searches that a search consists of; most have one.

    Attributes:
        name: empty in a search without stages.
        sources: names of the models that vary.
        space: what may vary; with stand-ins for the winners that it needs.
        needs: names of the earlier stages whose winners are models of the space.
        new_space: makes the space from the recipes of these winners, by the names of their stages.
        new_optimizer: makes an optimizer for the parameters of the space, with initial values.
        budget: when the stage ends.
        informed: whether the search starts from the best of several points.
        given: points that are tried before these.
        racing: how few examples a candidate is asked; None where each is asked all.
        not_raced: why each is asked all, where the search does not say so.
    """

    name: str
    sources: tuple[str, ...]
    space: Space
    needs: tuple[str, ...]
    new_space: Callable[[Mapping[str, Recipe]], Space]
    new_optimizer: Callable[[Sequence[Parameter]], Optimizer]
    budget: Budget
    informed: bool = False
    given: tuple[Proposal, ...] = ()
    racing: Racing | None = None
    not_raced: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A validated search, its parts composed by `evomerge.config.load`.

    Attributes:
        context: what all recipes have in common.
        stages: one after the other; at least one.
        new_executor: makes the executor, which is not started yet.
        setup: what workers are started with.
        stop_after_failures: give up when this many first candidates all fail.
        seed: of everything that is random.
        champions: how many of the best of each stage are scored on held-out examples.
        record: what the store keeps of the search itself.
    """

    context: SearchContext
    stages: tuple[Stage, ...]
    new_executor: Callable[[], Executor]
    setup: WorkerSetup
    stop_after_failures: int
    seed: int
    champions: int
    record: RunRecord

    @property
    def paper_defaults(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each operator of a stage that needs no winner, with the names of the stage's sources."""
        known = [stage for stage in self.stages if not stage.needs]
        pairs = ((name, stage.sources) for stage in known for name in stage.space.operators)
        return list(dict.fromkeys(pairs))

    @property
    def evaluations(self) -> int | None:
        """The evaluations of all stages together; None when only time limits one of them."""
        counts = [stage.budget.evaluations for stage in self.stages]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def limits_gpu_hours(self) -> bool:
        """Whether any stage has a budget of GPU hours."""
        return any(stage.budget.gpu_hours is not None for stage in self.stages)

    def require_gpus(self, executor: Executor) -> None:
        """Raise for GPU hours in any stage where the workers would hold no GPU.

        Raises:
            ConfigError: names all such stages.
        """
        gpus = executor.planned_gpus(self.setup) if self.limits_gpu_hours else 0
        problems: list[Problem] = []
        for stage in self.stages:
            try:
                stage.budget.require_gpus(gpus)
            except ConfigError as error:
                above = ("stages", stage.name) if stage.name else ()
                problems += [problem.under(*above) for problem in error.details]
        if problems:
            raise ConfigError(problems)


class Progress(NamedTuple):
    """How far a search is, for whoever shows its progress.

    Attributes:
        done, total: baselines and candidates that are finished, and that there will be; None
            when only time limits them.
        best: highest fitness of a searched candidate so far.
        elapsed_seconds: of search time, over all sessions.
        stage: ``baselines``, ``search`` or the stage's name, or ``held-out``. A stage whose budget
            is spent has ``, last results`` behind its name: the next one waits for them.
    """

    done: int
    total: int | None
    best: float | None
    elapsed_seconds: float
    stage: str


Observer = Callable[[Progress], None]
