"""Prompts of lm-eval tasks, as the engine's ``lm_eval`` options ask for them."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from evomerge.engines import LmEvalOptions
from evomerge.errors import ConfigError

if TYPE_CHECKING:
    from lm_eval.api.model import LM

_FEWSHOT_SEED = 1234  # lm-eval's own default


class PromptBuilder:
    """Writes the prompts of tasks, with the model's tokenizer and chat template."""

    def __init__(self, lm: LM, options: LmEvalOptions) -> None:
        self._lm, self._options = lm, options
        self._chat: dict[str, Any] = {}
        if options.apply_chat_template:
            # chooses the template that apply_chat_template then uses
            if not lm.chat_template(options.apply_chat_template):
                raise ConfigError(
                    "engine.lm_eval.apply_chat_template: the merged model's tokenizer has no chat "
                    "template. Set chat_template, or apply none."
                )
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
