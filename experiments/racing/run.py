"""Ways to search on three zoos, several seeds each; then tables of held-out scores by examples.

    python experiments/racing/run.py                       # everything: hours
    python experiments/racing/run.py --zoos zoo --seeds 1  # one seed on one zoo

Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evomerge.analysis.run import Run
from evomerge.search.finalists import ENOUGH_FOR_A_CHOICE
from experiments.racing import mergekit_evolve
from experiments.racing.courses import State, course
from experiments.racing.held_out import Examiner
from experiments.racing.methods import ITS_MEAN, METHODS, PEER, Method
from experiments.racing.tables import BUDGETS, level, table
from experiments.racing.zoos import BLOCK_ZOO, OPERATORS, TIES, ZOO, Zoo, from_seed


def main() -> None:
    """Make what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/racing"), help="where runs are")
    parser.add_argument("--zoos", nargs="+", default=["zoo", "block_zoo", "zoo_1"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="0 to this number minus one")
    options = parser.parse_args()
    for name in ("lm_eval", "evomerge"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in options.zoos:
        zoo = _zoo(name, options.runs)
        (options.runs / name).mkdir(parents=True, exist_ok=True)
        with Examiner(zoo, options.runs / name / "scores.jsonl") as examiner:
            courses = {
                method: [
                    _course(zoo, method, seed, options.runs / name) for seed in range(options.seeds)
                ]
                for method in options.methods
            }
            rows = {
                method: [_scores(METHODS[method], states, examiner) for states in seeds]
                for method, seeds in courses.items()
            }
            print(f"\n## {name}\n\n{table(rows)}\n", flush=True)
            if {PEER, "racing_auto"} <= rows.keys():
                print(level(rows, PEER, "racing_auto"))
            for method, seeds in courses.items():
                if METHODS[method].recommends == "finalists":
                    folders = [options.runs / name / f"{method}-{n}" for n in range(len(seeds))]
                    _print_honesty(METHODS[method], folders, seeds, examiner)


def _zoo(name: str, runs: Path) -> Zoo:
    known = {zoo.name: zoo for zoo in (ZOO, BLOCK_ZOO, TIES, OPERATORS)}
    return known.get(name) or from_seed(int(name.removeprefix("zoo_")), runs)


def _course(zoo: Zoo, method: str, seed: int, folder: Path) -> list[State]:
    print(f"{zoo.name} {method} {seed}", file=sys.stderr, flush=True)
    if method in (PEER, ITS_MEAN):
        file = folder / f"{PEER}-{seed}.json"
        best = mergekit_evolve.course(zoo, seed, file, METHODS[PEER].examples)
        return best if method == PEER else mergekit_evolve.means(file)
    return course(zoo, METHODS[method], seed, folder / f"{method}-{seed}")


def _print_honesty(
    method: Method, folders: Sequence[Path], courses: Sequence[Sequence[State]], examiner: Examiner
) -> None:
    """How often the search score of what is recommended is what its table would say of it."""
    within = []
    for folder, states in zip(folders, courses, strict=True):
        genes = _recommended(method, states, method.examples, examiner)
        run = Run.open(folder)
        assert genes is not None and run.best and run.best.search and run.choice
        search, held_out = (examiner.score(genes, which) for which in ("search", "held_out"))
        bound = run.best.search.half_width + (run.choice.optimism or 0.0)
        within.append(abs(search - held_out) <= bound)
        print(f"{folder.name}: search {search:.3f}, held out {held_out:.3f}, bound {bound:.3f}")
    print(f"{sum(within)} of {len(within)} within their interval and optimism", flush=True)


def _scores(method: Method, states: Sequence[State], examiner: Examiner) -> list[float | None]:
    """Held-out score of what is recommended at each budget; None where there is nothing yet."""
    budgets = [budget if budget <= method.examples else 0 for budget in BUDGETS]
    chosen = [_recommended(method, states, budget, examiner) for budget in budgets]
    return [None if genes is None else examiner.score(genes, "held_out") for genes in chosen]


def _recommended(
    method: Method, states: Sequence[State], budget: int, examiner: Examiner
) -> Mapping[str, Any] | None:
    """The genes that a search with a budget of so many examples would end with."""
    several = method.recommends == "finalists" and budget >= ENOUGH_FOR_A_CHOICE
    each = 0 if method.recommends == "best" else examiner.examples(method.asked)
    reached = [
        one
        for one in states
        if one.examples + each * (len(one.genomes) if several else 1) <= budget
    ]
    if not reached:
        return None
    state = reached[-1]
    finalists = [*state.genomes[: None if several else 1], *state.starts]
    if method.recommends != "finalists" or len(finalists) == 1:
        return finalists[0]
    return max(finalists, key=lambda genes: examiner.score(genes, "search"))


if __name__ == "__main__":
    main()
