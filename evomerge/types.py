"""The plain data that rooms hand to one another: what varies, what was tried, what came out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple

from evomerge.recipes import Recipe

Gene = float | int | bool | str
Split = Literal["search", "held_out"]
# Which examples: task to the ids of its documents, ascending; no task that is asked none.
Portion = Mapping[str, tuple[int, ...]]


def count(examples: Mapping[str, Collection[int]]) -> int:
    """How many examples these are, or have scores."""
    return sum(map(len, examples.values()))


Kind = Literal["baseline", "search", "mean"]
# What stores call an optimizer's final estimate, ever since CMA-ES, whose estimate is the mean of
# its distribution, was the only optimizer that had one. Stored runs are never rewritten.
FINAL_ESTIMATE: Literal["mean"] = "mean"
Role = Literal["base", "source", "average", "paper_defaults"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that a space lets vary.

    Attributes:
        name: unique within a space, e.g. ``weight[strings,mlp,2]``.
        kind: ``float``, ``int``, ``bool`` or ``choice``.
        initial: where a search starts, within the bounds.
        low, high: inclusive bounds of a ``float`` or ``int``.
        scale: ``log`` searches the logarithm; ``low`` is then positive.
        choices: what a ``choice`` chooses from.
        group: genes of one group mean the same in different places, e.g. ``weight.strings``.
    """

    name: str
    kind: Literal["float", "int", "bool", "choice"]
    initial: Gene
    _: KW_ONLY
    low: float = 0.0
    high: float = 1.0
    scale: Literal["linear", "log"] = "linear"
    choices: tuple[str, ...] = ()
    group: str = ""

    def to_unit(self, value: float) -> float:
        """The number's place between ``low`` (0) and ``high`` (1), on the parameter's scale."""
        if self.high == self.low:
            return 0.0
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def from_unit(self, unit: float) -> float:
        """Inverse of `to_unit`; the result never leaves [low, high]."""
        if self.scale == "log":
            value = self.low * math.pow(self.high / self.low, unit)
        else:
            value = self.low + unit * (self.high - self.low)
        return min(max(value, self.low), self.high)


@dataclass(frozen=True, slots=True)
class Genome:
    """What an optimizer proposes: a value for every parameter of the space.

    Attributes:
        genes: parameter name to value, in the order of the space's parameters; of a genome with
            parents also what the optimizer and the space add, as JSON has it.
        parents: numbers of the candidates that it was made from; empty when made from none.
    """

    genes: Mapping[str, Any]
    parents: tuple[int, ...] = ()


class Proposal(NamedTuple):
    """A genome, and what it is called."""

    label: str
    genome: Genome


@dataclass(frozen=True, slots=True)
class TaskScores:
    """How one model did on one task.

    Attributes:
        score: the task's own aggregate; higher is better.
        doc_ids: (E,) which examples, by their index in the task's documents, ascending.
        example_scores: (E,) one score per example, in that order.
    """

    score: float
    doc_ids: tuple[int, ...]
    example_scores: tuple[float, ...]


# The scores of one model: task to example, by its index in the task's documents, to score.
Cells = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a worker found out about one recipe on one split.

    Attributes:
        status: ``done``, or ``failed`` when the candidate could not be built or scored.
        tasks: scores by the task's name in the fitness; empty when failed.
        value: the fitness, higher is better; None when failed, and until the driver set it.
        merge_seconds, score_seconds: wall time of materialising, and of asking and scoring.
        generation_seconds: the part of `score_seconds` in which the engine answered.
        generated_tokens: in the texts that it answered with; 0 where it only rated given ones.
        error: why it failed.
        worker: which one found out, e.g. ``0 on node-17``.
        measures: of the model: its layers and the like, those that the fitness asks for.
        objectives: by name, of which more is better: of one that is minimized, the negative.
            Empty until the driver set them, and where not all examples were asked.
        shortfall: how far it is from what it must reach; 0 where it reaches all.
        standing: of a candidate that was raced, where it stands in its cohort; the larger, the
            better. It says nothing of other cohorts.
    """

    status: Literal["done", "failed"]
    tasks: Mapping[str, TaskScores] = field(default_factory=dict)
    _: KW_ONLY
    value: float | None = None
    merge_seconds: float = 0.0
    score_seconds: float = 0.0
    error: str | None = None
    generation_seconds: float = 0.0
    worker: str = ""
    generated_tokens: int = 0
    standing: tuple[int, float] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    objectives: Mapping[str, float] = field(default_factory=dict)
    shortfall: float = 0.0

    @property
    def examples(self) -> int:
        """How many were scored."""
        return sum(len(scores.doc_ids) for scores in self.tasks.values())

    @property
    def rank(self) -> tuple[float, ...]:
        """What candidates that were asked alike are ordered by; the larger, the better.

        One that reaches all floors comes before any that does not; one that failed or scored NaN
        comes last.
        """
        if self.standing is not None:
            return self.standing
        if self.status == "failed" or self.value is None or math.isnan(self.value):
            return (-math.inf,)
        return (-self.shortfall, self.value)

    @property
    def cells(self) -> Cells:
        """The scores, example by example."""
        return {
            task: dict(zip(scores.doc_ids, scores.example_scores, strict=True))
            for task, scores in self.tasks.items()
        }


class Aim(NamedTuple):
    """What a search is after, as far as its optimizer is to know before it asks.

    Attributes:
        objectives: names, as in `Evaluation.objectives`.
        several: whether the search says that it has several; otherwise these are its tasks, and
            the fitness alone counts.
        floors: whether there is any that must be reached.
    """

    objectives: tuple[str, ...]
    several: bool = False
    floors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One numbered attempt of a run.

    Attributes:
        number: 0, 1, 2, ... in the order in which the run made them, baselines first.
        kind: ``baseline``, ``search`` (asked of the optimizer) or `FINAL_ESTIMATE` (what the
            optimizer believes is best at the end of a stage).
        role: what a baseline is: the base or a source alone, the average of the sources, or an
            operator with the defaults of its paper; None otherwise.
        label: a baseline's name, e.g. ``source: strings``; empty otherwise.
        stage: of the search that it belongs to; empty for a baseline, and in a search without
            stages.
    """

    number: int
    kind: Kind
    genome: Genome
    recipe: Recipe
    role: Role | None = None
    label: str = ""
    stage: str = ""


class PrefixGram(NamedTuple):
    """Inner products of a run's K sources over their first elements, kept in its store.

    Attributes:
        of: a digest of the sources, in order, and of how their tensors are laid end to end.
        position: how many elements.
        products: (K * K,) row by row.
    """

    of: str
    position: int
    products: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to evaluate one candidate; plain data.

    Attributes:
        number: the candidate's number, echoed with the result.
        split: which examples to score it on.
        portion: only these of them; None for all.
    """

    number: int
    recipe: Recipe
    split: Split
    portion: Portion | None = None
