"""Fronts of several methods on two zoos, several seeds each; then tables and a picture.

    python experiments/front/run.py                       # everything: two hours on one core
    python experiments/front/run.py --zoos zoo --seeds 1  # one seed on one zoo

Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evomerge.analysis.front import RunFront
from experiments.front.methods import METHODS, PEER, finished, front
from experiments.front.tables import draw, measured, table

DRAWN = ("random", PEER, "cmaes", "pareto")
PAIRS = {
    "zoo": [("arithmetic", "kanji"), ("arithmetic", "strings"), ("kanji", "cross")],
    "block_zoo": [("arithmetic", "kanji"), ("kanji", "blocks")],
}


def main() -> None:
    """Make what is missing, then print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/front"), help="where runs are")
    parser.add_argument("--zoos", nargs="+", default=["zoo", "block_zoo"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="0 to this number minus one")
    parser.add_argument("--only-tables", action="store_true", help="of the runs that are finished")
    options = parser.parse_args()
    for name in ("lm_eval", "evomerge"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in options.zoos:
        fronts: dict[str, list[RunFront]] = {method: [] for method in options.methods}
        for seed in range(options.seeds):
            for method in options.methods:
                folder = options.runs / name / f"{method}-{seed}"
                if options.only_tables and not finished(folder):
                    continue
                print(f"{name} {method} {seed}", file=sys.stderr, flush=True)
                fronts[method].append(front(name, method, seed, folder))
        found = {method: [measured(one) for one in seeds] for method, seeds in fronts.items()}
        print(f"\n## {name}\n\n{table(found)}\n", flush=True)
        kept = {method: fronts[method] for method in DRAWN if fronts.get(method)}
        draw(kept, PAIRS[name], options.runs / f"{name}.svg")


if __name__ == "__main__":
    main()
