"""M2N2, CMA-ES and random search on the zoo, five seeds each; then a table and a figure.

    python experiments/m2n2_zoo/run.py

Every run is an ordinary run folder, ``runs/m2n2_zoo/METHOD-SEED``. Started again, it goes on where
it was stopped. The table and the figure are drawn from the stores.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.m2n2_zoo.courses import Course, read_course
from experiments.m2n2_zoo.drawing import NAMES, draw
from experiments.m2n2_zoo.held_out import Examiner, of_baselines
from experiments.repeated import complete, spread

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Run what is missing, seed after seed, so that methods can be compared early."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/m2n2_zoo"), help="where runs are")
    parser.add_argument("--seeds", type=int, default=5, help="0 to this number minus one")
    options = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what we do on purpose
    folders = {
        method: [options.runs / f"{method}-{seed}" for seed in range(options.seeds)]
        for method in NAMES
    }
    for seed in range(options.seeds):
        for method in NAMES:
            complete(FOLDER / f"{method}.yaml", folders[method][seed], [f"seed={seed}"])
    courses = {method: [read_course(f) for f in folders[method]] for method in NAMES}
    tokens = min(course.tokens[-1] for runs in courses.values() for course in runs)
    baselines = of_baselines(folders["m2n2"][0])
    draw(courses, tokens, baselines.coverage_of_sources, options.runs / "m2n2_zoo.png")
    print(f"{tokens:.0f} generated tokens a run, {options.seeds} seeds\n")
    print(_table(folders, courses, tokens))
    for name, search, held_out in baselines.rows:
        print(f"| {name} | {100 * search:.1f} | {100 * held_out:.1f} | | | |")


def _table(
    folders: Mapping[str, Sequence[Path]], courses: Mapping[str, Sequence[Course]], tokens: float
) -> str:
    """Per cent, mean and standard error over the seeds, of each run's best at so many tokens."""
    lines = [
        "| | search | held-out | coverage | of the best 20 | of 20 chosen to cover |",
        "|---|---|---|---|---|---|",
    ]
    with Examiner() as examiner:
        for method, runs in courses.items():
            standings = [found for course in runs if (found := course.at(tokens)) is not None]
            held_out = [
                examiner.held_out(folder, standing.best)
                for folder, standing in zip(folders[method], standings, strict=True)
            ]
            columns = [
                [standing.skill for standing in standings],
                held_out,
                [standing.coverage for standing in standings],
                [standing.coverage_of_best for standing in standings],
                [course.chosen(tokens) for course in runs],
            ]
            lines.append(f"| {NAMES[method]} | {' | '.join(map(spread, columns))} |")
            means = [course.mean for course in runs if course.mean is not None]
            if means:
                asked = list(zip(folders[method], means, strict=True))
                pairs = [[f(*one) for one in asked] for f in (examiner.search, examiner.held_out)]
                lines.append(
                    f"| {NAMES[method]}, its mean | {' | '.join(map(spread, pairs))} | | | |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
