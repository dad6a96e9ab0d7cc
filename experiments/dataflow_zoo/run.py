"""Searches of merges and stacks on the zoo, three seeds each; then a table and a picture.

    python experiments/dataflow_zoo/run.py
    python experiments/dataflow_zoo/run.py --searches experiments/block_zoo

Every run is an ordinary run folder, ``runs/dataflow_zoo/SEARCH-SEED``. Started again, it goes on
where it was stopped. The table and the picture are drawn from the stores.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evomerge.analysis.rows import Row, Score
from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.yaml_files import parse_yaml
from experiments.dataflow_zoo import paths
from experiments.repeated import complete, spread

FOLDER = Path(__file__).resolve().parent
NAMES = {
    "ps": "parameter space",
    "dfs": "data-flow space",
    "dfs_scale_one": "data-flow space, scales of one",
    "hybrid": "hybrid",
    "joint": "joint",
}


class Best(NamedTuple):
    """The best candidate of a run, or of a stage, on the search examples."""

    row: Row
    path: list[paths.Hop]


def main() -> None:
    """Run what is missing, seed after seed, so that searches can be compared early."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, help="folder; runs/ and the name of the searches' own")
    parser.add_argument("--searches", type=Path, default=FOLDER, help="folder of their YAMLs")
    parser.add_argument("--seeds", type=int, default=3, help="0 to this number minus one")
    options = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what we do on purpose
    names = [name for name in NAMES if (options.searches / f"{name}.yaml").exists()]
    runs = options.runs or Path("runs") / options.searches.resolve().name
    outcomes: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            search = options.searches / f"{name}.yaml"
            outcomes[name].append(complete(search, runs / f"{name}-{seed}", [f"seed={seed}"]))
    print("\n".join(_table(outcomes)))
    groups = {
        NAMES[name]: [_drawn(run) for run in found]
        for name, found in outcomes.items()
        if name != "ps"
    }
    paths.draw(groups, runs / "paths.png")


def _table(outcomes: Mapping[str, Sequence[Run]]) -> list[str]:
    """Per cent, mean and standard error over the seeds, of the best of each run and stage."""
    lines = []
    for name, runs in outcomes.items():
        stages = sorted({row.candidate.stage for row in runs[0].candidates} - {""})
        lines += [
            _line(f"{NAMES[name]}, stage {stage}", [_best(run, stage) for run in runs])
            for stage in stages
        ]
        lines.append(_line(f"**{NAMES[name]}**", [_best(run) for run in runs]))
    one = next(iter(outcomes.values()))[0]
    tasks = list(one.file.fitness.tasks)
    for row in one.baselines:
        search, held_out = _scores(row)
        each = " | ".join(f"{100 * held_out.tasks[task]:.0f}" for task in tasks)
        both = f"{100 * search.value:.1f} | {100 * held_out.value:.1f}"
        lines.append(f"| {row.candidate.label} | {both} | {each} | |")
    head = f"| best of | search | held-out | {' | '.join(tasks)} | blocks |"
    return [head, "|---" * (4 + len(tasks)) + "|", *lines]


def _line(title: str, found: Sequence[Best]) -> str:
    scores = [_scores(best.row) for best in found]
    both = [spread([score.value for score in split]) for split in zip(*scores, strict=True)]
    tasks = [
        f"{100 * np.mean([held_out.tasks[task] for _, held_out in scores]):.0f}"
        for task in scores[0][1].tasks
    ]
    blocks = ", ".join(str(len(best.path)) for best in found)
    return f"| {title} | {' | '.join([*both, *tasks, blocks])} |"


def _scores(row: Row) -> tuple[Score, Score]:
    assert row.search is not None and row.held_out is not None, "champions are held out"
    return row.search, row.held_out


def _best(run: Run, stage: str | None = None) -> Best:
    """Of equals the first; the same that the run itself held out."""
    rows = [row for row in run.candidates if row.search]
    rows = [row for row in rows if stage in (None, row.candidate.stage)]
    best = max(rows, key=lambda row: (row.search.value if row.search else 0.0, -row.number))
    loaded = load(parse_yaml(run.record.search_yaml, str(run.folder)))
    models = {loaded.file.base: "base"}
    models |= {model: name for name, model in loaded.file.sources.items()}
    return Best(best, paths.hops(best.recipe, models, loaded.search.context.layers))


def _drawn(run: Run) -> paths.Row:
    best = _best(run)
    search, held_out = _scores(best.row)
    note = f"{100 * search.value:.1f} / {100 * held_out.value:.1f}"
    return paths.Row(f"seed {run.record.seed}", note, best.path)


if __name__ == "__main__":
    main()
