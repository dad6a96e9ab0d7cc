"""What is compared: ways to search, and what each would recommend at any time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.racing.zoos import Zoo

Recommends = Literal["best", "mean", "finalists"]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to search.

    Attributes:
        title: in the table.
        keys: of the search YAML that it changes, as behind ``--set``; None where evomerge does not
            make the search.
        recommends: the ``best`` of all that were asked everything; the average of the late means;
            or the best of its ``finalists``, as evomerge does where it races.
        asked: search examples of each task that it takes; None for all.
        examples: its budget.
    """

    title: str
    keys: tuple[str, ...] | None
    recommends: Recommends
    asked: int | None = None
    examples: int = 40_000

    def overrides(self, zoo: Zoo, seed: int) -> list[str]:
        """What makes the search of a zoo one by this method."""
        subset = [
            f"fitness.tasks.{task}={{task: zoo_{task}, search_examples: {self.asked}}}"
            for task in (zoo.tasks if self.asked else ())
        ]
        own = [f"seed={seed}", f"fitness.seed={seed}", f"budget.examples={self.examples}"]
        return [*zoo.overrides, *subset, *own, *(self.keys or ())]


_FULL, _RACED = "racing=false", "racing={first: 40, rungs: 3, keep: 0.5}"
_INITIAL, _AUTO = "start=initial", "start=auto"
PEER, ITS_MEAN = "mergekit_evolve", "mergekit_evolve_mean"
METHODS = {
    PEER: Method("mergekit-evolve's method", None, "best", examples=80_000),
    ITS_MEAN: Method("the same runs, their mean", None, "mean", examples=80_000),
    "racing_auto": Method("racing, informed start", (_RACED, _AUTO), "finalists", examples=80_000),
    "racing_initial": Method("racing, initial point", (_RACED, _INITIAL), "finalists"),
    "full_auto": Method("full, informed start", (_FULL, _AUTO), "mean"),
    "full_initial": Method("full, initial point", (_FULL, _INITIAL), "mean"),
    "fixed_40": Method("the same 40 for all, informed start", (_FULL, _AUTO), "mean", 10),
    "tpe": Method("TPE, full", (_FULL, _INITIAL, "optimizer={name: optuna}"), "best"),
    "random": Method("random, full", (_FULL, _INITIAL, "optimizer={name: random}"), "best"),
}
