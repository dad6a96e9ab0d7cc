"""Which tasks can be asked some of their examples."""

from __future__ import annotations

import inspect

from evomerge.scoring.fitness import Fitness
from evomerge.scoring.python import load_scorer
from evomerge.scoring.tasks import load_task, task_manager


def not_by_example(fitness: Fitness) -> dict[str, str]:
    """Task of the fitness to why its score is no mean over any examples that one likes.

    Raises:
        ConfigError: a task or scorer that cannot be loaded.
    """
    reasons = {}
    for name, task in fitness.scorers.items():
        if "examples" not in inspect.signature(load_scorer(name, task)).parameters:
            reasons[name] = "its scorer takes no `examples`."
    if not fitness.lm_eval_tasks:
        return reasons
    manager = task_manager(fitness)
    for name, settings in fitness.lm_eval_tasks.items():
        assert settings.task is not None
        loaded = load_task(name, settings.task, manager)
        listed = [str(item["metric"]) for item in loaded.get_config("metric_list") or []]
        metric = settings.metric or next(iter([*listed, *loaded.aggregation()]))
        aggregate = loaded.aggregation()[metric]
        if getattr(aggregate, "__name__", "") != "mean":
            reasons[name] = f"{metric} is no mean over its examples."
    return reasons


def generates(fitness: Fitness) -> bool:
    """Whether any task has text generated, rather than given texts rated.

    Raises:
        ConfigError: a task that cannot be loaded.
    """
    tasks = fitness.lm_eval_tasks
    if not tasks:
        return False
    manager = task_manager(fitness)
    return any(
        load_task(name, str(task.task), manager).OUTPUT_TYPE == "generate_until"
        for name, task in tasks.items()
    )
