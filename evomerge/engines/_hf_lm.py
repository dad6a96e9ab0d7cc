"""lm-eval's own ``hf`` model around one that is there already, with a seed for each request."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from torch import Tensor


class _Prompt(str):
    """A prompt that knows the seed of its answer: lm-eval sorts prompts, and passes on no more."""

    __slots__ = ("seed",)
    seed: int


def live_lm(model: Any, **options: Any) -> LM:
    """An lm-eval model that behaves as lm-eval's own does, but where requests have a ``seed``.

    Its answer then depends on the model, the prompt and the seed, not on what else is asked.

    Args:
        model: of Transformers.
        options: of lm-eval's model.
    """
    from lm_eval.models.huggingface import HFLM  # seconds of import

    class LiveHF(HFLM):  # type: ignore[misc]
        _seeds: Sequence[int | None] = ()  # of the batch

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            # by their options requests are put into batches, and those differ in the seed
            answers: list[str] = super().generate_until(
                [_with_seed_in_prompt(request) for request in requests], disable_tqdm=disable_tqdm
            )
            return answers

        def tok_batch_encode(self, strings: Any, *args: Any, **options: Any) -> Any:
            self._seeds = [getattr(prompt, "seed", None) for prompt in strings]
            return super().tok_batch_encode(strings, *args, **options)

        def _model_generate(self, context: Any, *args: Any, **options: Any) -> Any:
            seeds = [seed for seed in self._seeds if seed is not None]
            if seeds:
                options["custom_generate"] = _Sampling(seeds)
            return super()._model_generate(context, *args, **options)

    lm: LM = LiveHF(pretrained=model, **options)
    return lm


def _with_seed_in_prompt(request: Instance) -> Instance:
    prompt, options, *others = request.args
    if "seed" not in options:
        return request
    seeded = _Prompt(prompt)
    seeded.seed = options["seed"]
    rest = {name: value for name, value in options.items() if name != "seed"}
    one = copy(request)
    one.arguments = (seeded, rest, *others)
    return one


class _Sampling:
    """What Transformers calls in place of its own sampling, with one generator for all rows.

    Args:
        seeds: of the B rows of a batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        """Tokens as ``generate`` gives them; arguments as its ``custom_generate`` gets them.

        Raises:
            ConfigError: answers are to be sampled in another way than token by token.
        """
        if generation_config.num_beams > 1:
            path, text = ("engine", "lm_eval", "gen_kwargs"), "sampled answers have no beams."
            raise ConfigError(Problem(path, text, "Set num_beams: 1, or do_sample: false."))
        logits_processor.append(_Noise(self._seeds, input_ids.device))  # after temperature, top_k
        generation_config.do_sample = False  # a copy of this call's
        return type(model)._sample(
            model,
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **model_kwargs,
        )


class _Noise:
    """Adds noise to logits so that the largest one is a draw from their softmax.

    Source: Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030, section 2.
    """

    def __init__(self, seeds: Sequence[int], device: Any) -> None:
        import torch

        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, V) logits plus noise, each row's from its own generator."""
        import torch

        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.log_()
