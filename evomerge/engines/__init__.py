"""What computes a merged model's answers: one live model, many candidates.

The file's name is the engine's public name; the keyword-only arguments of its constructor are
its YAML keys.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from evomerge.engines._devices import is_cpu, present
from evomerge.keys import Count, Keys, Plain
from evomerge.plugins.user_code import anchor_code

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import Tensor
    from torch.nn import Module

    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan


class Engine(ABC):
    """A live model whose weights are replaced in place, candidate after candidate.

    The scores of a loaded plan equal those of the checkpoint that is built from it.

    Attributes:
        has_module: whether it has a `module`, which Python scorers ask.
        code_keys: options that name a function of the user's, as ``path.py:function``.
        spans_nodes: whether one engine may compute on several nodes of a cluster.
        dtype: of the live weights, torch's name for it; ``auto`` leaves it to the engine.
        device: torch's name for it; ``auto`` is a GPU where there is one.
        ranks: over how many GPUs (on a CPU: processes) one model is spread.
        at_once: how many candidates it holds side by side, in slots 0 to ``at_once - 1``.
    """

    has_module: ClassVar[bool] = True
    code_keys: ClassVar[frozenset[str]] = frozenset()
    spans_nodes: ClassVar[bool] = False
    dtype: str = "auto"
    device: str = "auto"
    ranks: int = 1
    at_once: int = 1

    @classmethod
    def anchored(cls, options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The options, the paths of `code_keys` made absolute; relative ones start at a folder."""
        named = {key: options[key] for key in cls.code_keys & options.keys()}
        return {
            **options,
            **{k: anchor_code(v, folder) for k, v in named.items() if isinstance(v, str)},
        }

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> Sequence[Path]:
        """The files that its options name and scores depend on, the same on every machine.

        Machines may keep them in different folders: they are compared by their paths relative to
        the folder of the first.
        """
        return ()

    @abstractmethod
    def identity(self, models: Models) -> Mapping[str, Any]:
        """All that a score depends on besides recipe and fitness, as plain data without ``auto``.

        The engine need not be open. Scores are comparable only where identities are equal; a run
        does not resume with another.
        """

    def gpus(self, held: float | None = None) -> float:
        """How many GPUs one engine computes on; 0 on a CPU. The engine need not be open.

        Args:
            held: GPUs that a worker elsewhere has; None: it computes on this machine.
        """
        if held is None:
            return float(self.ranks) if present(self.device).startswith("cuda") else 0.0
        return 0.0 if is_cpu(self.device) else min(float(self.ranks), held)

    def weights_dtype(self, stored: str, held: float | None = None) -> str:
        """Torch's name for the dtype of the live weights. The engine need not be open.

        Args:
            stored: dtype of the checkpoints.
            held: as in `gpus`.
        """
        if self.dtype != "auto":
            return self.dtype
        on_cpu = is_cpu(present(self.device)) if held is None else not self.gpus(held)
        return "float32" if on_cpu else stored

    @abstractmethod
    def open(self, models: Models) -> None:
        """Start the model with the base's architecture; done once, takes seconds.

        Raises:
            PlanError: the engine cannot hold this architecture.
        """

    @abstractmethod
    def load(self, plan: Plan) -> None:
        """Merge straight into the live weights. Afterwards nothing of the previous plan is left.

        Raises:
            CandidateError: the plan gives values that are not finite.
            SearchError: the machine has failed, whatever the plan.
        """

    def load_at(self, slot: int, plan: Plan) -> None:
        """Merge into one of several slots, as `load` does; `select_slot` makes it the live one.

        Raises:
            CandidateError, SearchError: as `load`.
        """
        assert slot == 0, "an engine with several slots has its own"
        self.load(plan)

    def select_slot(self, slot: int) -> None:
        """Make `module` compute with the weights of this slot."""
        assert slot == 0, "an engine with several slots has its own"

    def for_all_slots(self, function: Callable[[Module], Tensor]) -> Tensor:
        """(at_once, ...) results of a function of `module` for every slot, in one pass.

        Raises:
            Exception: what the function raises when it is called for all slots at once.
        """
        raise NotImplementedError(f"{type(self).__name__} has one slot")

    def try_open(self, models: Models) -> None:  # noqa: B027 - most engines take all
        """Raise for models that it could not open; takes none of their memory.

        Raises:
            PlanError: config, generation config or tokenizer that `open` would refuse.
        """

    def validate(self, plan: Plan) -> None:  # noqa: B027 - most engines take all
        """Raise for a plan that the engine could not load; it need not be open.

        Raises:
            PlanError: all reasons why it could not.
        """

    @property
    def module(self) -> Module:
        """The live module with the weights loaded last, in evaluation mode."""
        raise NotImplementedError(f"{type(self).__name__} has no module")

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Give memory and devices back."""


class LmEvalOptions(Keys):
    """The keys under ``engine.lm_eval``: lm-eval's own arguments, with lm-eval's own defaults.

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

    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    num_fewshot: int | None = Field(default=None, ge=0)
    gen_kwargs: Plain = Field(default_factory=dict)
    max_gen_toks: Count | None = None
    add_bos_token: bool | None = None
    prefix_token_id: int | None = Field(default=None, ge=0, lt=2**31)
    think_end_token: str | None = None
    enable_thinking: bool | None = None
    chat_template_args: Plain = Field(default_factory=dict)

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


class LanguageModelEngine(Engine):
    """An engine that answers lm-eval's tasks.

    Attributes:
        lm_eval: how lm-eval asks it.
        seed: of sampled answers, in [0, 2³²). Every request that samples comes with a ``seed`` of
            its own in its ``gen_kwargs``, made of this one, the example and the repeat: `lm` has
            the answer depend on that, not on the other requests of the call.
    """

    lm_eval: LmEvalOptions = LmEvalOptions()
    seed: int = 0
    _lm: LM | None = None  # while it is open

    @property
    def lm(self) -> LM:
        """Answers lm-eval's requests with the weights loaded last.

        Raises:
            RuntimeError: the engine is not open.
        """
        if self._lm is None:
            raise RuntimeError("the engine is not open")
        return self._lm

    @abstractmethod
    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """Arguments with which the plain ``lm_eval`` program computes the same answers.

        The engine need not be open. Keys: ``model``, ``model_args`` (without ``pretrained``),
        ``batch_size`` and ``device``.
        """

    def identity(self, models: Models) -> Mapping[str, Any]:
        """See `Engine.identity`."""
        return self.lm_eval_arguments(models)


def words(model_args: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of a model as ``lm_eval --model_args`` reads them, without those that are None."""
    return {
        name: json.dumps(value) if isinstance(value, dict | list) else str(value)
        for name, value in model_args.items()
        if value is not None
    }
