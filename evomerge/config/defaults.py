"""What a search does where its YAML leaves it open: whether it races, and where it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from evomerge.config.compatibility import check_racing
from evomerge.config.pace import pace
from evomerge.config.schema import SearchFile
from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.scoring import Fitness
from evomerge.scoring.by_example import SearchExamples
from evomerge.search.racing.settings import Racing
from evomerge.search.spec import Stage

_FEWEST_EXAMPLES = Racing().first * Racing().blocks  # 160: what the best of a cohort are asked
_FEWEST_COHORTS = 2  # of one alone an optimizer learns once, and most of it is chance


class RacingChoice(NamedTuple):
    """Whether a stage races.

    Attributes:
        racing: None where it does not.
        why_not: a sentence, where it does not though the search does not say so.
    """

    racing: Racing | None
    why_not: str = ""


def default_racing(
    stage: Stage, optimizer: Optimizer, name: str, fitness: Fitness, examples: SearchExamples
) -> RacingChoice:
    """The racing of a stage that does not say: the usual one, wherever it is of use.

    Args:
        stage: which does not race yet.
        optimizer: of the stage.
        name: of the optimizer.
    """
    racing = Racing()
    try:
        check_racing(racing, optimizer, name, fitness, examples)
    except ConfigError as error:
        return RacingChoice(None, error.details[0].text)
    if fitness.objectives is not None:
        return RacingChoice(None, "a front is made of candidates that were asked all examples.")
    if optimizer.learns_from == "values":
        text = f"the optimizer {name} learns from values, and races only where racing is written."
        return RacingChoice(None, text)
    if fitness.scorers:
        return RacingChoice(None, "how many examples a scorer has is not known before the run.")
    there = sum(examples.counts.values())
    if there < _FEWEST_EXAMPLES:
        return RacingChoice(None, f"{there} search examples are fewer than {_FEWEST_EXAMPLES}.")
    found = pace(replace(stage, racing=racing), fitness)
    assert found is not None
    for key, least in found.least(_FEWEST_COHORTS).items():
        if (limit := getattr(stage.budget, key)) < least:
            text = f"{_FEWEST_COHORTS} cohorts take {least} {key}, the budget has {limit}."
            return RacingChoice(None, text)
    return RacingChoice(racing)


def written_out(file: SearchFile, stages: Sequence[Stage]) -> SearchFile:
    """The search as it is recorded: a run that goes on does not depend on defaults."""
    parts = [
        keys.model_copy(
            update={
                "start": keys.start or (("auto",) if stage.informed else ("initial",)),
                "racing": stage.racing or False,
            }
        )
        for keys, stage in zip(file.parts, stages, strict=True)
    ]
    if file.stages is not None:
        return file.model_copy(update={"stages": tuple(parts)})
    return file.model_copy(update={"start": parts[0].start, "racing": parts[0].racing})
