"""How good the fronts of runs are, as tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evomerge.analysis.front import FrontRow, RunFront
from experiments.front.methods import METHODS
from experiments.racing.tables import spread

_WEIGHTINGS = 500


class Measured(NamedTuple):
    """What the front of one run is worth.

    Attributes:
        search, held_out: hypervolumes of the models that are shown, with 1 for the whole space.
        utility: held-out weighted sum of the model that has the best one on search examples, on
            average over weightings drawn uniformly. What is minimized counts as a part of the
            reference.
        best: held-out fitness of the front's best fitness.
        size: of the front before anything is dropped or thinned.
    """

    search: float
    held_out: float
    utility: float
    best: float
    size: float


def measured(front: RunFront) -> Measured:
    """The measures of a run's front, all of which is scored on held-out examples."""
    assert front.held_out_hypervolume is not None
    scale = {
        name: abs(front.reference[name]) or 1.0 if goal == "minimize" else 1.0
        for name, goal in front.goals.items()
    }
    space = float(np.prod(list(scale.values())))
    best = front.rows[0].held_out
    assert best is not None
    return Measured(
        search=front.hypervolume / space,
        held_out=front.held_out_hypervolume / space,
        utility=_utility(front, scale),
        best=best,
        size=float(front.nondominated),
    )


def _utility(front: RunFront, scale: Mapping[str, float]) -> float:
    weights_WT = np.random.default_rng(0).dirichlet(np.ones(len(scale)), size=_WEIGHTINGS)
    signs = [1 if goal == "maximize" else -1 for goal in front.goals.values()]
    factors_T = np.array(signs) / np.array(list(scale.values()))

    def worths(split: str) -> np.ndarray:
        numbers: Sequence[Mapping[str, float]] = [getattr(row, split) for row in front.rows]
        found_nT = np.array([[one[name] for name in scale] for one in numbers]) * factors_T
        worth: np.ndarray = weights_WT @ found_nT.T
        return worth

    chosen_W = worths("search").argmax(axis=1)
    return float(worths("held_out_search")[np.arange(_WEIGHTINGS), chosen_W].mean())


def table(found: Mapping[str, Sequence[Measured]]) -> str:
    """Mean and 95 % t-interval over the seeds, all but the size times 100.

    Args:
        found: method to what its seeds have.
    """
    heads = "held-out hypervolume | on search | held-out utility | held-out fitness | size | seeds"
    lines = [f"| | {heads} |", "|---|---|---|---|---|---|---|"]
    for method, seeds in found.items():
        if not seeds:
            continue
        columns = [
            spread([one.held_out for one in seeds]),
            spread([one.search for one in seeds]),
            spread([one.utility for one in seeds]),
            spread([one.best for one in seeds]),
            f"{np.mean([one.size for one in seeds]):.0f}",
            str(len(seeds)),
        ]
        lines.append(f"| {METHODS[method].title} | {' | '.join(columns)} |")
    return "\n".join(lines)


def draw(
    fronts: Mapping[str, Sequence[RunFront]], pairs: Sequence[tuple[str, str]], file: Path
) -> None:
    """Held-out scores of all models on the fronts, a panel for each pair of objectives."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "evomerge"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(pairs), figsize=(4.2 * len(pairs), 4), squeeze=False)
    for panel, (across, up) in zip(panels[0], pairs, strict=True):
        for method, of_seeds in fronts.items():
            rows: list[FrontRow] = [row for front in of_seeds for row in front.rows]
            points = [row.held_out_search for row in rows if row.held_out_search]
            panel.scatter(
                [one[across] for one in points],
                [one[up] for one in points],
                s=12,
                alpha=0.7,
                label=METHODS[method].title,
            )
        panel.set_xlabel(f"{across}, held out")
        panel.set_ylabel(f"{up}, held out")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
