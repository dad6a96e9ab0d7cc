"""The figure: means over the seeds with their standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.m2n2_zoo.courses import Course, Floats, Standing

NAMES = {
    "m2n2": "M2N2",
    "m2n2_starts": "M2N2 from starts",
    "cmaes": "CMA-ES",
    "random": "random search",
}
_COLOURS = {"m2n2": "#c1272d", "m2n2_starts": "#eecc16", "cmaes": "#0000a7", "random": "#777777"}


def draw(courses: Mapping[str, Sequence[Course]], tokens: float, lines: float, path: Path) -> None:
    """Mean skill of the best and coverage of the population, over generated tokens.

    Args:
        courses: by method, one a seed.
        tokens: up to which all runs went.
        lines: coverage of the three sources together, drawn for comparison.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    evaluations = max(len(course.numbers) for runs in courses.values() for course in runs)
    tokens_T = np.linspace(tokens / evaluations * 4, tokens, 200)
    for panel, pick in ((left, _skill), (right, _coverage)):
        for method, runs in courses.items():
            _band(panel, tokens_T / 1000, _over(runs, tokens_T, pick), method)
        panel.set_xlabel("generated tokens, thousands")
        panel.grid(alpha=0.3)
    left.set_ylabel("mean skill of the best, search examples, %")
    right.set_ylabel("examples solved by somebody, %")
    right.axhline(100 * lines, color="black", lw=0.8, ls="--", label="the three sources")
    left.legend()
    right.legend(loc="lower right")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _over(runs: Sequence[Course], tokens_T: Floats, pick: Callable[[Standing], float]) -> Floats:
    """(S, T) per cent by seed; NaN before a run's first result."""
    rows = [[course.at(tokens) for tokens in tokens_T] for course in runs]
    return np.array([[np.nan if s is None else 100 * pick(s) for s in row] for row in rows])


def _band(panel: Axes, x_T: Floats, values_ST: Floats, method: str) -> None:
    mean, error = values_ST.mean(0), np.zeros(values_ST.shape[1])
    if len(values_ST) > 1:
        error = values_ST.std(0, ddof=1) / np.sqrt(len(values_ST))
    panel.plot(x_T, mean, color=_COLOURS[method], label=NAMES[method])
    panel.fill_between(x_T, mean - error, mean + error, color=_COLOURS[method], alpha=0.2, lw=0)


def _skill(standing: Standing) -> float:
    return standing.skill


def _coverage(standing: Standing) -> float:
    return standing.coverage
