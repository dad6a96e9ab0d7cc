"""What `run.py` recorded beside the published figures: a table, and with Matplotlib a figure.

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
    print(table(found))
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


def table(found: Mapping[str, Sequence[Mapping[int, float]]]) -> str:
    """Markdown: for every method what was found, and below it what was published."""
    lines = [
        f"| method | {' | '.join(map(str, CHECKPOINTS))} |",
        "|---" * (len(CHECKPOINTS) + 1) + "|",
    ]
    for method in METHODS:
        runs = found[method.name]
        means = [mean_at(runs, count) for count in CHECKPOINTS]
        ours = [_cell(m.value, m.error) if m else "" for m in means]
        count = max((m.runs for m in means if m), default=0)
        theirs = [_cell(*method.published.get(at, (None, None))) for at in CHECKPOINTS]
        lines.append(f"| {method.name} ({count}) | {' | '.join(ours)} |")
        lines.append(f"| *published* | {' | '.join(theirs)} |")
    return "\n".join(lines)


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
