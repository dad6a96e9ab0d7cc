"""What `run.py` recorded beside the published figures: a table, and with Matplotlib a figure.

What `published.py` recorded, if anything, has rows of its own.

python experiments/m2n2_digits/report.py
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from methods import METHODS, Method

CHECKPOINTS = (500, 1000, 2000, 5000, 10_000)
HERE = Path(__file__).parent


class Distance(NamedTuple):
    """Attributes: of which mean, in published standard errors, and in those of both means."""

    method: str
    evaluations: int
    published_errors: float
    both_errors: float


class Mean(NamedTuple):
    """Attributes: mean in %, its standard error (None of one run), and how many runs."""

    value: float
    error: float | None
    runs: int


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/m2n2_digits"))
    parser.add_argument("--figure", type=Path, default=HERE / "figure.png")
    given = parser.parse_args()
    found = {method.name: curves(given.runs, method) for method in METHODS}
    print(table(found, {m.name: curves(given.runs / "published", m) for m in METHODS}))
    apart = distances(found)
    far = [d for d in apart if d.published_errors > 2]
    print(
        f"\n{len(far)} of {len(apart)} means are more than two published errors away, taken as of "
        "samples; in brackets in errors of both means:"
    )
    for d in far:
        print(f"- {d.method}, {d.evaluations}: {d.published_errors:.1f} ({d.both_errors:.1f})")
    try:
        draw(found, given.figure)
    except ImportError:
        print("No figure: pip install matplotlib", file=sys.stderr)


def curves(folder: Path, method: Method) -> list[dict[int, float]]:
    """Of every recorded run: evaluations to test accuracy."""
    paths = sorted(folder.glob(f"{method.slug}_[0-9]*.json"))
    records: list[dict[str, Any]] = [json.loads(path.read_text()) for path in paths]
    return [{int(n): value for n, value in record["curve"]} for record in records]


def mean_at(runs: Sequence[Mapping[int, float]], count: int) -> Mean | None:
    """Over the runs that got there."""
    values = [100 * run[count] for run in runs if count in run]
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error, len(values))


def table(
    found: Mapping[str, Sequence[Mapping[int, float]]],
    again: Mapping[str, Sequence[Mapping[int, float]]],
) -> str:
    """Markdown: for every method what was found, what was published, and what that gives again.

    Args:
        found: method to runs.
        again: method to runs of the published method.
    """
    lines = [
        f"| method | {' | '.join(map(str, CHECKPOINTS))} |",
        "|---" * (len(CHECKPOINTS) + 1) + "|",
    ]
    for method in METHODS:
        lines.append(_row(method.name, found[method.name]))
        theirs = [_cell(*method.published.get(at, (None, None))) for at in CHECKPOINTS]
        lines.append(f"| *published* | {' | '.join(theirs)} |")
        if again[method.name]:
            lines.append(_row("*published code, written again*", again[method.name]))
    return "\n".join(lines)


def distances(found: Mapping[str, Sequence[Mapping[int, float]]]) -> list[Distance]:
    """How far each mean is from the published one, where that has an error.

    Published errors come from a deviation that divides by the number n of runs: only so do three
    runs of `published.py` give those of MAP-Elites and of no crossover. That of a sample divides by
    n - 1, so that they are taken times √(n / (n - 1)).
    """
    apart = []
    for method in METHODS:
        short = math.sqrt(method.published_runs / (method.published_runs - 1))
        for count, (value, error) in method.published.items():
            mean = mean_at(found[method.name], count)
            if error is None or mean is None or mean.error is None:
                continue
            far, error = abs(mean.value - value), short * error
            both = far / math.hypot(error, mean.error)
            apart.append(Distance(method.name, count, far / error, both))
    return apart


def _row(name: str, runs: Sequence[Mapping[int, float]]) -> str:
    means = [mean_at(runs, count) for count in CHECKPOINTS]
    cells = [_cell(m.value, m.error) if m else "" for m in means]
    return f"| {name} ({max((m.runs for m in means if m), default=0)}) | {' | '.join(cells)} |"


def _cell(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if error is None else f"{value:.1f} ± {error:.1f}"


def draw(found: Mapping[str, Sequence[Mapping[int, float]]], path: Path) -> None:
    """From scratch on the left, from pretrained models on the right; points are published."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    sides = figure.subplots(1, 2, sharey=True)
    for method in METHODS:
        axes, runs = sides[int(method.pretrained)], found[method.name]
        counts = sorted({count for run in runs for count in run})
        means = [mean for count in counts if (mean := mean_at(runs, count))]
        values = [mean.value for mean in means]
        (line,) = axes.plot(counts, values, label=method.name.removesuffix(", pretrained"))
        low = [mean.value - (mean.error or 0) for mean in means]
        high = [mean.value + (mean.error or 0) for mean in means]
        axes.fill_between(counts, low, high, color=line.get_color(), alpha=0.15)
        for at, (value, error) in method.published.items():
            axes.errorbar(at, value, error, fmt="o", ms=3, capsize=2, color=line.get_color())
    for axes, title in zip(sides, ("from scratch", "from pretrained seeds"), strict=True):
        axes.set(xscale="log", xlabel="evaluations", title=title)
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    sides[0].set_ylabel("test accuracy in %")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
