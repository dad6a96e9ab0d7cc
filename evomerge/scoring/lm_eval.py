"""lm-eval tasks: built once, asked of a model many times, scored example by example."""

from __future__ import annotations

import io
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evomerge.engines import LmEvalOptions
from evomerge.errors import CandidateError, ConfigError, Problem
from evomerge.scoring.fitness import Fitness, Task
from evomerge.scoring.sampling import repeats
from evomerge.scoring.tasks import (
    draw_documents,
    load_task,
    name_problems,
    shots_problems,
    task_manager,
)
from evomerge.types import Portion, Split, TaskScores

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager


_FEWSHOT_SEED = 1234  # lm-eval's own default


class PromptBuilder:
    """Writes the prompts of tasks, with the model's tokenizer and chat template."""

    def __init__(self, lm: LM, options: LmEvalOptions) -> None:
        self._lm, self._options = lm, options
        self._chat: dict[str, Any] = {}
        if options.apply_chat_template:
            # chooses the template that apply_chat_template then uses
            if not lm.chat_template(options.apply_chat_template):
                path = ("engine", "lm_eval", "apply_chat_template")
                text = "the merged model's tokenizer has no chat template."
                raise ConfigError(Problem(path, text, "Set chat_template, or apply none."))
            self._chat = {
                "apply_chat_template": True,
                "chat_template": lm.apply_chat_template,
                "tokenizer_name": lm.tokenizer_name,
            }

    def configure(self, task: Any, num_fewshot: int | None) -> None:
        """Set a task up as lm-eval's own ``simple_evaluate`` would.

        Args:
            num_fewshot: as the fitness has it; None for that of the options, or of the task.
        """
        own = task.get_config("num_fewshot")
        if num_fewshot is None:
            # as lm-eval has it, a task that says 0 wants none whatever the options say
            num_fewshot = own if own == 0 else self._options.num_fewshot
        if num_fewshot is not None or own is None:
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
        if self._options.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
            options = dict(self._options.gen_kwargs)
            task.set_config(key="generation_kwargs", value=options, update=True)

    def write(self, task: Any, doc_ids: tuple[int, ...] | None) -> None:
        """Build the task's requests, for these documents or, where None, for all."""
        with redirect_stderr(io.StringIO()):  # a progress bar per task, for milliseconds of work
            task.build_all_requests(
                # sorted and unique, or lm-eval labels examples wrongly; it takes [] for all, too
                samples=None if doc_ids is None else list(doc_ids),
                rank=self._lm.rank,
                world_size=self._lm.world_size,
                system_instruction=self._options.system_instruction,
                fewshot_as_multiturn=self._options.fewshot_as_multiturn,
                **self._chat,
            )


class BuiltTask(NamedTuple):
    """A task with its requests by document, ready to be asked of one model after another."""

    name: str
    settings: Task
    task: Any
    doc_ids: tuple[int, ...]
    requests: dict[int, list[Instance]]

    def only(self, doc_ids: tuple[int, ...]) -> BuiltTask:
        """The task with the requests of some of its documents, as they were built for all."""
        places = {doc_id: place for place, doc_id in enumerate(self.doc_ids)}
        # lm-eval numbers the documents that it builds requests for
        by_place = list(self.requests.values())
        requests = {place: by_place[place] for place in map(places.__getitem__, doc_ids)}
        return self._replace(doc_ids=doc_ids, requests=requests)


class LmEvalScorer:
    """Scores models on the lm-eval tasks of a fitness, one split of them.

    Attributes:
        generation_seconds: how long the model took to answer during the last `score`.
        generated_tokens: tokens in those answers, without their stop sequences.

    Args:
        lm: only its tokenizer and chat template are used, to write the prompts.
        options: how the prompts are written.
        seed: of sampled answers.

    Raises:
        ConfigError: a task, metric, filter or chat template that does not exist, its data cannot
            be loaded, or too few examples.
    """

    def __init__(
        self,
        fitness: Fitness,
        split: Split,
        lm: LM,
        options: LmEvalOptions | None = None,
        seed: int = 0,
    ) -> None:
        self.generation_seconds, self.generated_tokens = 0.0, 0
        self._seed = seed
        manager = task_manager(fitness)
        prompts = PromptBuilder(lm, options or LmEvalOptions())
        self._tasks = [
            built
            for name, settings in fitness.lm_eval_tasks.items()
            if (built := build_task(name, settings, split, fitness.seed, manager, prompts))
            is not None
        ]

    def doc_ids(self) -> dict[str, tuple[str, tuple[int, ...], bool]]:
        """lm-eval task to its name in the fitness, the documents asked, whether these are all."""
        return {
            built.task.config.task: (
                built.name,
                built.doc_ids,
                len(built.doc_ids) == len(built.task.eval_docs),
            )
            for built in self._tasks
        }

    def requests(self, name: str) -> dict[int, list[Instance]]:
        """Document number to the requests of a task, by its name in the fitness."""
        return next(built.requests for built in self._tasks if built.name == name)

    def score(self, lm: LM, portion: Portion | None = None) -> dict[str, TaskScores]:
        """Ask requests; scores of the answers by the task's name in the fitness.

        Args:
            portion: the documents to ask about; None for all. What is asked about a document does
                not depend on the others.
        """
        asked = self._tasks
        if portion is not None:
            asked = [built.only(portion[built.name]) for built in asked if built.name in portion]
        by_type: dict[str, list[Instance]] = defaultdict(list)
        for instance in (one for built in asked for one in self._repeated(built)):
            by_type[instance.request_type].append(instance)
        started = time.perf_counter()
        answers = {
            kind: getattr(lm, kind)(instances, disable_tqdm=True)
            for kind, instances in by_type.items()
        }
        self.generation_seconds = time.perf_counter() - started
        for kind, instances in by_type.items():
            for instance, answer in zip(instances, answers[kind], strict=True):
                instance.resps.append(answer)  # to a list that the repeats of a request share
        self.generated_tokens = _count_tokens(lm, answers.get("generate_until", []))
        return {built.name: _scores(built) for built in asked}

    def _repeated(self, built: BuiltTask) -> Iterator[Instance]:
        """The requests of a task as often as they are asked, without the answers of before."""
        for doc_id, instances in zip(built.doc_ids, built.requests.values(), strict=True):
            for instance in instances:
                instance.resps, instance.filtered_resps = [], {}
                yield from repeats(instance, built.task.config.task, doc_id, self._seed)


def _count_tokens(lm: LM, answers: list[str]) -> int:
    """Tokens of all answers, counted in their texts: lm-eval passes no tokens on."""
    if not answers:
        return 0
    return sum(map(len, lm.tokenizer(answers, add_special_tokens=False)["input_ids"]))


def build_task(
    name: str, settings: Task, split: Split, seed: int, manager: TaskManager, prompts: PromptBuilder
) -> BuiltTask | None:
    """The task with its requests, or None where it has nothing held out."""
    source = settings.examples_from(split)
    if source is None:
        return None
    task = load_task(name, source, manager)
    prompts.configure(task, settings.num_fewshot)
    problems = name_problems(name, settings, task)
    problems += shots_problems(name, task, task.get_config("num_fewshot"))
    if problems:
        raise ConfigError(problems)
    doc_ids = draw_documents(name, settings, split, seed, len(task.eval_docs))
    prompts.write(task, None if len(doc_ids) == len(task.eval_docs) else doc_ids)
    requests: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        requests[instance.doc_id].append(instance)
    return BuiltTask(name, settings, task, doc_ids, dict(sorted(requests.items())))


def _scores(built: BuiltTask) -> TaskScores:
    task, settings = built.task, built.settings
    # lm-eval has no public name for the requests that it filters the answers of
    task._instances = [one for instances in built.requests.values() for one in instances]
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
        text, cure = f"{metric} has no score per example.", "Choose another metric."
        raise ConfigError(Problem(("tasks", built.name), text, cure))
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
