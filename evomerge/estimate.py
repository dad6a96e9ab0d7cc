"""What a search will cost, from headers and task data alone."""

from __future__ import annotations

from typing import Any

from evomerge.baselines import baselines
from evomerge.config import Loaded
from evomerge.scoring.tasks import example_counts
from evomerge.weights.plan import make_plan


def estimate(loaded: Loaded) -> dict[str, Any]:
    """Sizes, dimension and number of evaluations, as plain data with units in the names."""
    search, models = loaded.search, loaded.models
    plan = make_plan(search.space.decode(search.space.initial()), models)
    compared = len(list(baselines(search.ground, search.space.operators)))
    evaluations = search.budget.evaluations
    examples = example_counts(loaded.file.fitness)
    per_candidate = sum(examples["search"].values())
    total = None if evaluations is None else (evaluations + compared + 1) * per_candidate
    held_out = sum(examples["held_out"].values()) * (compared + search.champions)
    return {
        "name": loaded.file.name,
        "parameters": {
            "base": models.base.parameter_count,
            **{name: source.parameter_count for name, source in models.sources.items()},
        },
        "layers": models.layers,
        "merged_bytes": plan.nbytes,
        "operators": list(search.space.operators),
        "genome_dimension": len(search.space.parameters),
        "baselines": compared,
        "budget": {
            k: v
            for k, v in (("evaluations", evaluations), ("seconds", search.budget.seconds))
            if v is not None
        },
        "search_examples": examples["search"],
        "held_out_examples": examples["held_out"],
        "examples_to_answer": "as many as the time allows" if total is None else total + held_out,
        "bytes_to_merge": plan.nbytes * ((evaluations or 0) + compared),
    }
