"""Prune the deep model as far as several losses allow, several seeds each, and by rules instead.

    python experiments/layer_pruning/run.py

Every search is an ordinary run, gone on with where it was stopped; scores by rule are kept beside
them. The table and the picture are drawn from these.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evomerge.analysis.run import Run
from experiments.layer_pruning.examiner import Examiner, Scores
from experiments.layer_pruning.rules import (
    best_of_all,
    block_inputs,
    consecutive,
    greedy,
    influence,
)
from experiments.repeated import complete, spread
from experiments.zoo import zoo_tasks

FOLDER = Path(__file__).resolve().parent
WITHIN = (0.0, 0.02, 0.05, 0.1)
PROMPTS = 100  # of each task, for the hidden states: the search examples
RULES = {
    "consecutive": "neighbours",
    "influence": "block influence",
    "greedy": "greedy",
    "best_of_all": "best of all",
}


class Pruned(NamedTuple):
    """The best of one search: which blocks stay, and what they score."""

    blocks: list[int]
    scores: Scores


def main() -> None:
    """Run what is missing, seed after seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/layer_pruning"), help="folder")
    parser.add_argument("--seeds", type=int, default=3, help="0 to this number minus one")
    options = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what we do on purpose
    found: dict[float, list[Pruned]] = {within: [] for within in WITHIN}
    for seed in range(options.seeds):
        for within in WITHIN:
            folder = options.runs / f"within-{100 * within:g}-{seed}"
            words = [f"seed={seed}", f"fitness.shorten.within={within}"]
            found[within].append(_best(complete(FOLDER / "search.yaml", folder, words)))
    rules = _by_rule(options.runs / "rules.json")
    print("\n".join(_table(found, rules)))
    _draw(found, rules, options.runs / "pruning.png")


def _best(run: Run) -> Pruned:
    """What a run chose, which it held out itself."""
    best = run.best
    assert best is not None and best.search is not None and best.held_out is not None
    blocks = [start for slice_ in best.recipe.slices for start, _ in slice_.values()]
    return Pruned(blocks, Scores(best.search.value, best.held_out.value))


def _by_rule(path: Path) -> dict[str, list[Pruned]]:
    """For each rule what is left of the model, from all blocks to two."""
    if not path.exists():
        tasks = zoo_tasks.build(0)
        prompts = [e.prompt for s in zoo_tasks.SKILLS for e in tasks[s]["search"][:PROMPTS]]
        inputs = block_inputs(FOLDER / "deep", prompts)
        with Examiner(FOLDER / "search.yaml") as examiner:
            paths = {
                "consecutive": consecutive(inputs),
                "influence": influence(inputs),
                "greedy": greedy(len(inputs), examiner.search),
                "best_of_all": best_of_all(len(inputs), examiner.search),
            }
            scored = {
                rule: [[blocks, examiner.both(blocks)] for blocks in found]
                for rule, found in paths.items()
            }
        path.write_text(json.dumps(scored), encoding="utf-8")
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        rule: [Pruned(blocks, Scores(*scores)) for blocks, scores in found]
        for rule, found in stored.items()
    }


def _table(
    found: Mapping[float, Sequence[Pruned]], rules: Mapping[str, Sequence[Pruned]]
) -> list[str]:
    """Per cent, mean and standard error over the seeds, of the best of each run."""
    whole = rules["greedy"][0]
    lines = [
        f"| may be lost | blocks | search | held-out | {' | '.join(RULES.values())} |",
        "|---" * (4 + len(RULES)) + "|",
        f"| the whole model | {len(whole.blocks)} | {100 * whole.scores.search:.1f} "
        f"| {100 * whole.scores.held_out:.1f} |" + " |" * len(RULES),
    ]
    for within, runs in found.items():
        depths = [len(run.blocks) for run in runs]
        both = [spread(split) for split in zip(*(run.scores for run in runs), strict=True)]
        same = []
        for rule in RULES:
            scores = [_at(rules[rule], depth).scores for depth in depths]
            search, held_out = (100 * np.mean(split) for split in zip(*scores, strict=True))
            same.append(f"{search:.1f} / {held_out:.1f}")
        shown = ", ".join(map(str, depths))
        cells = [f"{100 * within:g} %", shown, *both, *same]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Blocks that are left out:", ""]
    for within, runs in found.items():
        gone = ["none" if not (out := _gone(run)) else " ".join(map(str, out)) for run in runs]
        lines.append(f"- {100 * within:g} %: {'; '.join(gone)}")
    for rule, title in RULES.items():
        steps = "; ".join(" ".join(map(str, _gone(one))) for one in rules[rule][1:7])
        lines.append(f"- {title}: {steps}")
    return lines


def _at(found: Sequence[Pruned], depth: int) -> Pruned:
    return next(one for one in found if len(one.blocks) == depth)


def _gone(one: Pruned) -> list[int]:
    return sorted(set(range(12)) - set(one.blocks))


def _draw(
    found: Mapping[float, Sequence[Pruned]], rules: Mapping[str, Sequence[Pruned]], path: Path
) -> None:
    """Held-out score by blocks: a line for each rule, a mark for each search."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    panel = figure.subplots()
    colours = ("#9a9a9a", "#0072b2", "#009e73", "#000000")
    for rule, colour in zip(RULES, colours, strict=True):
        depths = [len(one.blocks) for one in rules[rule]]
        scores = [100 * one.scores.held_out for one in rules[rule]]
        panel.plot(depths, scores, color=colour, marker=".", lw=1, label=RULES[rule])
    for marker, (within, runs) in zip("o^sD", found.items(), strict=True):
        panel.scatter(
            [len(run.blocks) for run in runs],
            [100 * run.scores.held_out for run in runs],
            marker=marker,
            facecolors="none",
            edgecolors="#d55e00",
            zorder=3,
            label=f"search, within {100 * within:g} %",
        )
    panel.invert_xaxis()
    panel.set(xlabel="blocks", ylabel="held-out score, %")
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140, metadata={"Software": None})


if __name__ == "__main__":
    main()
