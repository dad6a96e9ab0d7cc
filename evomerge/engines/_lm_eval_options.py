"""How lm-eval asks a model: the keys under ``engine.lm_eval``, the same for every engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def words(model_args: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of a model as ``lm_eval --model_args`` reads them, without those that are None."""
    return {
        name: json.dumps(value) if isinstance(value, dict | list) else str(value)
        for name, value in model_args.items()
        if value is not None
    }


class LmEvalOptions(BaseModel):
    """lm-eval's own arguments under its own names; what is left out has lm-eval's default.

    Attributes:
        apply_chat_template: whether prompts are chats; the name of one of several templates.
        system_instruction: a system message before every prompt.
        fewshot_as_multiturn: whether each example is a turn of the chat.
        num_fewshot: for tasks to which the fitness gives no number, and that do not ask for 0.
        gen_kwargs: overrides the ``generation_kwargs`` of every task that generates.
        max_gen_toks: tokens that an answer may have where its task does not say.
        add_bos_token: whether a prompt begins with the tokenizer's begin token.
        prefix_token_id: the token before a text that has no context.
        think_end_token: the text of an answer up to this token is not scored.
        enable_thinking, chat_template_args: passed on to the chat template.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    num_fewshot: int | None = Field(default=None, ge=0)
    gen_kwargs: dict[str, Any] = Field(default_factory=dict)
    max_gen_toks: int | None = Field(default=None, ge=1)
    add_bos_token: bool | None = None
    prefix_token_id: int | None = Field(default=None, ge=0)
    think_end_token: str | None = None
    enable_thinking: bool | None = None
    chat_template_args: dict[str, Any] = Field(default_factory=dict)

    def model_args(self) -> dict[str, Any]:
        """The keys that are arguments of lm-eval's model, without those that were left out."""
        names = ("max_gen_toks", "add_bos_token", "prefix_token_id", "think_end_token")
        arguments = {name: getattr(self, name) for name in (*names, "enable_thinking")}
        arguments["chat_template_args"] = self.chat_template_args or None
        return {name: value for name, value in arguments.items() if value is not None}

    def flags(self) -> Iterator[str]:
        """The other keys, as words of an ``lm_eval`` command line."""
        if self.apply_chat_template:
            yield "--apply_chat_template"
            if isinstance(self.apply_chat_template, str):
                yield self.apply_chat_template
            yield from ("--fewshot_as_multiturn", str(self.fewshot_as_multiturn).lower())
        if self.system_instruction is not None:
            yield from ("--system_instruction", self.system_instruction)
        if self.gen_kwargs:
            yield from ("--gen_kwargs", json.dumps(self.gen_kwargs))
