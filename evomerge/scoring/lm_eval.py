"""lm-eval tasks: built once, asked of a model many times, scored example by example."""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from evomerge.errors import CandidateError, ConfigError
from evomerge.nouns import Split, TaskScores
from evomerge.registry import did_you_mean
from evomerge.scoring.fitness import Fitness, Task

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

_FEWSHOT_SEED = 1234  # lm-eval's own default


def unknown_tasks(fitness: Fitness) -> list[str]:
    """A sentence for each task that lm-eval does not know."""
    names = [n for task in fitness.tasks.values() for n in (task.task, task.held_out) if n]
    known = task_manager(fitness).all_tasks
    return [
        f"no lm-eval task is called {name!r}.{did_you_mean(name, known) if len(known) < 50 else ''}"
        for name in dict.fromkeys(names)
        if name not in known
    ]


def task_manager(fitness: Fitness) -> TaskManager:
    """Finds tasks in the fitness's own folder, and in lm-eval's where that is not enough."""
    from lm_eval.tasks import TaskManager

    names = {n for task in fitness.tasks.values() for n in (task.task, task.held_out) if n}
    if fitness.include_path is not None:
        own = TaskManager(include_path=fitness.include_path, include_defaults=False)
        if names <= set(own.all_tasks):
            return own  # 1 ms; with lm-eval's 15 000 files it takes 15 s
    return TaskManager(include_path=fitness.include_path)


def example_counts(fitness: Fitness) -> dict[str, dict[str, int]]:
    """Examples by split and task; loads the tasks' data but no model."""
    manager = task_manager(fitness)
    counts: dict[str, dict[str, int]] = {"search": {}, "held_out": {}}
    for split in get_args(Split):
        for name, settings in fitness.tasks.items():
            task = _load(settings, split, manager)
            if task is not None:
                chosen = _choose(name, settings, split, fitness.seed, len(task.eval_docs))
                counts[split][name] = len(chosen)
    return counts


class _Built(NamedTuple):
    """A task with its requests, ready to be asked again and again."""

    name: str
    settings: Task
    task: Any
    doc_ids: tuple[int, ...]
    requests: dict[int, list[Instance]]


class LmEvalScorer:
    """One split of a fitness, its requests built.

    Args:
        lm: only its tokenizer and chat template are used, to write the prompts.

    Raises:
        ConfigError: a task, metric or filter that does not exist, or too few examples.
    """

    def __init__(self, fitness: Fitness, split: Split, lm: LM) -> None:
        manager = task_manager(fitness)
        self._tasks = [
            built
            for name, settings in fitness.tasks.items()
            if (built := _build(name, settings, split, fitness.seed, manager, lm)) is not None
        ]

    @property
    def has_tasks(self) -> bool:
        """Whether any task has examples on this split."""
        return bool(self._tasks)

    def doc_ids(self) -> dict[str, tuple[str, tuple[int, ...], bool]]:
        """By lm-eval task: name in the fitness, examples asked, and whether these are all."""
        return {
            built.task.config.task: (
                built.name,
                built.doc_ids,
                len(built.doc_ids) == len(built.task.eval_docs),
            )
            for built in self._tasks
        }

    def score(self, lm: LM) -> dict[str, TaskScores]:
        """Ask every request and score the answers.

        Returns:
            scores by the task's name in the fitness.
        """
        by_type: dict[str, list[Instance]] = defaultdict(list)
        for built in self._tasks:
            for instances in built.requests.values():
                for instance in instances:
                    instance.resps = []
                    instance.filtered_resps = {}
                    by_type[instance.request_type].append(instance)
        for kind, instances in by_type.items():
            repeated = [i for i in instances for _ in range(i.repeats or 1)]
            answers = getattr(lm, kind)(repeated, disable_tqdm=True)
            for instance, answer in zip(repeated, answers, strict=True):
                instance.resps.append(answer)
        return {built.name: _scores(built) for built in self._tasks}


def _build(
    name: str, settings: Task, split: Split, seed: int, manager: TaskManager, lm: LM
) -> _Built | None:
    """The task with its requests, or None where it has nothing held out."""
    task = _load(settings, split, manager)
    if task is None:
        return None
    if settings.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    elif task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    _check_names(name, settings, task)
    doc_ids = _choose(name, settings, split, seed, len(task.eval_docs))
    everything = len(doc_ids) == len(task.eval_docs)
    # sorted and unique, or lm-eval labels examples wrongly; None, not [], means all of them
    with redirect_stderr(io.StringIO()):  # a progress bar per task, for milliseconds of work
        task.build_all_requests(
            samples=None if everything else list(doc_ids), rank=lm.rank, world_size=lm.world_size
        )
    requests: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        requests[instance.doc_id].append(instance)
    return _Built(name, settings, task, doc_ids, dict(sorted(requests.items())))


def _load(settings: Task, split: Split, manager: TaskManager) -> Any:
    """The lm-eval task of a split, or None where the fitness holds nothing out."""
    name = settings.task
    if split == "held_out":
        if settings.held_out is not None:
            name = settings.held_out
        elif settings.search_examples is None:
            return None
    task = manager.load([name])["tasks"].get(name)
    if task is None:
        raise ConfigError(f"{name}: a group of tasks. Name its tasks one by one.")
    return task


def _check_names(name: str, settings: Task, task: Any) -> None:
    filters = [ensemble.name for ensemble in getattr(task, "_filters", [])]
    for kind, given, known in (
        ("metric", settings.metric, list(task.aggregation())),
        ("filter", settings.filter, filters),
    ):
        if given is not None and given not in known:
            raise ConfigError(f"tasks.{name}: no {kind} {given!r}.{did_you_mean(given, known)}")


def _choose(name: str, settings: Task, split: Split, seed: int, available: int) -> tuple[int, ...]:
    """Which examples: disjoint between the splits where both draw from one task."""
    wanted = settings.search_examples if split == "search" else settings.held_out_examples
    own_task = split == "search" or settings.held_out is None
    order = np.random.default_rng([seed, zlib.crc32(settings.task.encode())]).permutation(available)
    if split == "held_out" and own_task:
        order = order[settings.search_examples :]
    chosen: Sequence[int] = order[:wanted].tolist()
    if not chosen or (split == "search" and wanted is not None and len(chosen) < wanted):
        raise ConfigError(
            f"tasks.{name}: {split} wants {wanted or 'some'} examples, "
            f"{settings.task} has {available} in all."
        )
    return tuple(sorted(chosen))


def _scores(built: _Built) -> TaskScores:
    task, settings = built.task, built.settings
    task.apply_filters()
    first = next(iter(built.requests.values()))[0]
    key = settings.filter or next(iter(first.filtered_resps))
    rows = []
    for instances in built.requests.values():
        instances.sort(key=lambda instance: instance.idx)
        answers = [instance.filtered_resps[key] for instance in instances]
        rows.append(task.process_results(instances[0].doc, answers))
    metric = settings.metric or _first_metric(task, rows[0])
    values = [row[metric] for row in rows]
    if not all(isinstance(v, (int, float, np.number)) for v in values):
        raise ConfigError(
            f"tasks.{built.name}: {metric} has no score per example. Choose another metric."
        )
    aggregate = task.aggregation()[metric]
    # higher is better everywhere: the sign of an error rate or a perplexity flips here
    sign = 1.0 if task.higher_is_better().get(metric, True) else -1.0
    score = sign * float(aggregate(values))
    if not np.isfinite(score):
        raise CandidateError(f"tasks.{built.name}: {metric} is {score}")
    return TaskScores(score, built.doc_ids, tuple(sign * float(v) for v in values))


def _first_metric(task: Any, row: Mapping[str, Any]) -> str:
    listed = [item["metric"] for item in task.get_config("metric_list") or []]
    return next((str(name) for name in listed if name in row), next(iter(row)))
