"""What computes a merged model's answers: one live model, many candidates.

The file's name is the engine's public name; the keyword-only arguments of its constructor are
its YAML keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evomerge.engines._lm_eval_options import LmEvalOptions

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import Tensor
    from torch.nn import Module

    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan

Serves = Literal["task", "scorer"]


__all__ = ["Engine", "LmEvalOptions", "Serves"]


class Engine(ABC):
    """A live model whose weights are replaced in place, candidate after candidate.

    The scores of a loaded plan equal those of the checkpoint that is built from it.

    Attributes:
        serves: what of a fitness it can answer: a ``task`` of lm-eval through `lm`, a ``scorer``
            through `module`.
        lm_eval: how lm-eval asks it.
        at_once: how many candidates it holds side by side, in slots 0 to ``at_once - 1``.
    """

    serves: ClassVar[frozenset[Serves]] = frozenset({"task"})
    lm_eval: LmEvalOptions = LmEvalOptions()
    at_once: int = 1

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> Sequence[Path]:
        """What its options name that scores depend on, and every machine must have the same.

        Those after the first are told apart by where they lie from its folder.
        """
        return ()

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
        """As `load`, into one of several slots; `turn_to` shows it.

        Raises:
            CandidateError, SearchError: as `load`.
        """
        assert slot == 0, "an engine with several slots has its own"
        self.load(plan)

    def turn_to(self, slot: int) -> None:
        """Make `module` that of a slot."""
        assert slot == 0, "an engine with several slots has its own"

    def at_all(self, function: Callable[[Module], Tensor]) -> Tensor:
        """(at_once, ...) what a function of `module` gives for every slot, in one pass.

        Raises:
            Exception: whatever keeps the function from it.
        """
        raise NotImplementedError(f"{type(self).__name__} has one slot")

    def validate(self, plan: Plan) -> None:  # noqa: B027 - most engines take all
        """Raise for a plan that the engine could not load; it need not be open.

        Raises:
            PlanError: says all that is in the way.
        """

    @property
    def lm(self) -> LM:
        """Answers lm-eval requests with the weights loaded last."""
        raise NotImplementedError(f"{type(self).__name__} serves {', '.join(self.serves)}")

    @property
    def module(self) -> Module:
        """The live module with the weights loaded last, in evaluation mode."""
        raise NotImplementedError(f"{type(self).__name__} serves {', '.join(self.serves)}")

    @abstractmethod
    def lm_eval_arguments(self, models: Models) -> Mapping[str, Any]:
        """Arguments with which the plain ``lm_eval`` program computes the same answers.

        The engine need not be open. Keys: ``model``, ``model_args`` (without ``pretrained``),
        ``batch_size`` and ``device``. An engine without `lm` gives ``model_args`` and ``device``,
        and whatever else its scores depend on.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Give memory and devices back."""
