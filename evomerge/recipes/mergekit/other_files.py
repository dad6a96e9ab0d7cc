"""Files of mergekit's other programs: which one a file is for, and what to use in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_EXPERTS = (
    "which makes a mixture of experts. evomerge makes none: make it with mergekit-moe, and merge "
    "it with others of its kind, or merge the models themselves: a mergekit file with "
    "merge_method: linear and the models of experts."
)
_EVOLVE = (
    "which searches. Write a search YAML and use evomerge run: base is genome.base_model, sources "
    "are genome.models by name, space.operator is genome.merge_method, space.parameters its "
    "weight, density or t, each with low and high (below 0 for allow_negative_weights), "
    "space.granularity stands for layer_granularity and filters, fitness.tasks for tasks, with "
    "weight, metric, num_fewshot, and search_examples for limit, engine.lm_eval for "
    "apply_chat_template and fewshot_as_multiturn."
)
_STACK = (
    "which stacks blocks. Write a mergekit file with merge_method: passthrough, and for each entry "
    "of layer_slices one of slices: {sources: [{model: ..., layer_range: [start, end]}]}."
)
_SURGEON = (
    "which gives a model the tokenizer of another. evomerge estimates no tokens: a recipe with "
    "tokenizer: NAME, of a source, takes over its tokenizer with the rows of the tokens that the "
    "models share."
)
_EXTRACT = (
    "which makes an adapter of the difference of two models. evomerge makes none: make it with "
    "mergekit-extract-lora, and name the adapter as a source, or model+adapter in a mergekit file."
)


class _Program(NamedTuple):
    """A program, keys of which any tells its files, and what follows its name in the sentence."""

    name: str
    keys: tuple[str, ...]
    instead: str


_PROGRAMS = (
    _Program("mergekit-moe", ("experts", "gate_mode", "shared_experts"), _EXPERTS),
    _Program("mergekit-evolve", ("genome",), _EVOLVE),
    _Program("bakllama", ("layer_slices", "lm_head_source"), _STACK),
    _Program("mergekit-tokensurgeon", ("donor", "donor_model", "approximation_method"), _SURGEON),
    _Program("mergekit-extract-lora", ("finetuned_model", "max_rank"), _EXTRACT),
)


def other_program(content: Mapping[str, Any]) -> str | None:
    """A sentence if a parsed YAML is for another program of mergekit than mergekit-yaml."""
    if "evomerge" in content or "merge_method" in content:
        return None  # a recipe, or a merge with a key that mergekit ignores
    for program in _PROGRAMS:
        if any(key in content for key in program.keys):
            return f"a file of {program.name}, {program.instead}"
    return None


def instead_of_search(content: Mapping[str, Any]) -> str | None:
    """A sentence if what should be a search YAML is one of mergekit's files."""
    if "merge_method" in content and "fitness" not in content:
        return (
            "a mergekit file, which is one merge: evomerge build makes it, evomerge evaluate "
            "scores it. A search has the keys name, base, sources, space and fitness."
        )
    return None if "fitness" in content else other_program(content)
