"""What a fitness asks, as text: the prompt of every search example and its right answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.engines import LmEvalOptions
from evomerge.errors import ConfigError, Problem
from evomerge.scoring.fitness import Fitness
from evomerge.scoring.lm_eval import PromptBuilder, build_task
from evomerge.scoring.tasks import task_manager

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM


class Text(NamedTuple):
    """A prompt, and the answer that should follow it."""

    prompt: str
    target: str


def search_texts(fitness: Fitness, lm: LM) -> list[Text]:
    """Prompt and right answer of the fitness's search examples, task after task.

    The prompts are those that `LmEvalScorer` asks. Where a task has several right answers, the
    first counts.

    Args:
        lm: only its rank is used.

    Raises:
        ConfigError: a task that cannot be loaded, or whose examples have no right answer.
    """
    if fitness.scorers:
        path = ("tasks", next(iter(fitness.scorers)))
        raise ConfigError(Problem(path, "a scorer asks no text.", "Leave the task out."))
    manager = task_manager(fitness)
    texts: list[Text] = []
    problems: list[Problem] = []
    prompts = PromptBuilder(lm, LmEvalOptions())
    for name, settings in fitness.tasks.items():
        built = build_task(name, settings, "search", fitness.seed, manager, prompts)
        assert built is not None, "every task has search examples"
        own = [_text(built.task, instances) for instances in built.requests.values()]
        texts += [text for text in own if text is not None]
        if missing := own.count(None):
            text = f"{missing} of {len(own)} examples of {settings.task} have no answer to read."
            problems.append(Problem(("tasks", name), text, "Leave the task out."))
    if problems:
        raise ConfigError(problems)
    return texts


def _text(task: Any, instances: list[Instance]) -> Text | None:
    """One example, or None where it has no answer."""
    instances = sorted(instances, key=lambda instance: instance.idx)
    first = instances[0]
    if first.request_type == "loglikelihood_rolling":
        text = Text("", first.args[0])
    elif first.request_type == "generate_until":
        target = _first(task.doc_to_target(first.doc))
        if target is None:
            return None
        delimiter = task.get_config("target_delimiter") or ""
        text = Text(first.args[0], f"{delimiter}{target}")
    else:
        number = 0 if len(instances) == 1 else _gold(task, first.doc)
        if number is None or not 0 <= number < len(instances):
            return None
        text = Text(*instances[number].args[:2])
    return text if text.target else None


def _gold(task: Any, doc: Any) -> int | None:
    """The index of an example's right choice; None where it says none."""
    # where choices fill a gap in the prompt (winogrande), the text says which
    asked = task.doc_to_text(doc)
    answer = asked if isinstance(asked, int) else _first(task.doc_to_target(doc))
    if isinstance(answer, int):
        return answer
    choices = task.doc_to_choice(doc)
    return choices.index(answer) if answer in choices else None


def _first(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return value[0] if value else None
    return value
