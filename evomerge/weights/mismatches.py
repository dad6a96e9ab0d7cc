"""What keeps models from being merged, and what a person should know though it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.headers import FLOATS
from evomerge.weights.names import language_config
from evomerge.weights.slots import Slot

# Keys that change what the same weights compute, though every shape agrees.
_SAME_CONFIG = ("model_type", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim")
_NOTED_CONFIG = (
    *("rope_theta", "rope_type", "rms_norm_eps", "layer_norm_epsilon", "hidden_act"),
    *("sliding_window", "num_experts_per_tok"),
)
_NAMED = 3  # tensors that a sentence names one by one
_DROP = "Drop this source."

RowMaps = Mapping[str, Tensor | None]


def config_problems(base: Checkpoint, sources: Mapping[str, Checkpoint]) -> list[str]:
    """Architectures that differ, and weights that are not full-precision."""
    problems = [
        f"{name}: its weights are quantized. Give the full-precision model."
        for name, checkpoint in {"base": base, **sources}.items()
        if "quantization_config" in checkpoint.config
        or any(info.dtype.startswith("F8") for info in checkpoint.tensors.values())
    ]
    for name, checkpoint in sources.items():
        problems += [
            f"{name}: {key} is {theirs!r}, the base has {mine!r}. {_DROP}"
            for key, mine, theirs in _differences(base, checkpoint, _SAME_CONFIG)
        ]
        if checkpoint.layers != base.layers:
            problems.append(
                f"{name}: has {checkpoint.layers} blocks, the base has {base.layers}. {_DROP}"
            )
    return problems


def vocabulary_problems(
    base: Checkpoint, sources: Mapping[str, Checkpoint], *, aligns: bool
) -> list[str]:
    """Tokenizers that number tokens differently, where rows are not aligned."""
    known = {name: checkpoint.vocabulary for name, checkpoint in sources.items()}
    if aligns or base.vocabulary is None:
        return []
    return [
        f"{name}: its tokenizer numbers tokens differently from the base's. "
        "Set tokenizer: base, or drop this source."
        for name, vocabulary in known.items()
        if vocabulary is not None and vocabulary != base.vocabulary
    ]


def shape_problems(
    slots: tuple[Slot, ...],
    sources: Mapping[str, Checkpoint],
    row_maps: RowMaps,
    *,
    aligns: bool,
) -> list[str]:
    """Every tensor whose shape or kind differs, in one sentence a source."""
    problems = []
    for source, checkpoint in sources.items():
        taking_part = [slot for slot in slots if source in slot.inputs]
        problems += [
            f"{slot.name} is stored as {slot.stored} in {_owner(slot)}, as {theirs} in {source}. "
            f"{_DROP}"
            for slot in taking_part
            if ((theirs := checkpoint.tensors[slot.inputs[source]].dtype) in FLOATS)
            != slot.floating
        ]
        wrong = [slot for slot in taking_part if not _fits(slot, source, checkpoint, row_maps)]
        if wrong:
            problems.append(_shape_sentence(wrong, source, checkpoint, aligns=aligns))
    return problems


def _fits(slot: Slot, source: str, checkpoint: Checkpoint, row_maps: RowMaps) -> bool:
    theirs = checkpoint.tensors[slot.inputs[source]].shape
    matched = slot.aligned and row_maps[source] is not None
    return theirs[1:] == slot.shape[1:] if matched else theirs == slot.shape


def _owner(slot: Slot) -> str:
    return "base" if slot.base is not None else next(iter(slot.inputs))


def _shape_sentence(wrong: list[Slot], source: str, checkpoint: Checkpoint, *, aligns: bool) -> str:
    theirs = {slot.name: checkpoint.tensors[slot.inputs[source]].shape for slot in wrong}
    cure = "Drop one source."
    if all(
        slot.inputs[source] in checkpoint.token_tables and theirs[slot.name][1:] == slot.shape[1:]
        for slot in wrong
    ):
        cure = "Set tokenizer: base, or drop one source."
        if aligns:
            cure = "Save a tokenizer.json with each model to match its tokens, or drop one source."
    verb = "tensor differs" if len(wrong) == 1 else "tensors differ"
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    named = "; ".join(
        f"{slot.name} is {slot.shape} in {_owner(slot)}, {theirs[slot.name]} in {source}"
        for slot in wrong[:_NAMED]
    )
    return f"{len(wrong)} {verb} in shape: {named}{more}. {cure}"


def notes(
    base: Checkpoint, sources: Mapping[str, Checkpoint], slots: tuple[Slot, ...], row_maps: RowMaps
) -> Iterator[str]:
    """What changes silently when these models are merged."""
    for name, checkpoint in sources.items():
        for key, mine, theirs in _differences(base, checkpoint, _NOTED_CONFIG):
            yield (
                f"{name}: {key} is {theirs!r}, the base has {mine!r}. The merged model keeps the "
                "base's."
            )
        yield from _vocabulary_note(name, base, checkpoint, row_maps[name])
        missing = [s.name for s in slots if s.base is not None and name not in s.inputs]
        if missing:
            yield (
                f"{name}: lacks {len(missing)} tensors of the base, {missing[0]} first; "
                "it takes no part in them."
            )
    extra = [slot.name for slot in slots if slot.base is None]
    if extra:
        yield (
            f"base: lacks {len(extra)} tensors of a source, {extra[0]} first; "
            "they become the average of the sources that have them."
        )
    if len({checkpoint.tied for checkpoint in (base, *sources.values())}) == 2:
        yield "some models tie embedding and head, some do not: all are untied."


def _vocabulary_note(
    name: str, base: Checkpoint, checkpoint: Checkpoint, rows: Tensor | None
) -> Iterator[str]:
    ours, theirs = base.vocabulary, checkpoint.vocabulary
    if theirs is None or ours is None:
        lacking = "the base" if ours is None else "it"
        if ours is not theirs:
            yield (
                f"{name}: {lacking} has no tokenizer.json, so that vocabularies cannot be "
                "compared; rows are taken to mean the same tokens."
            )
    elif rows is not None:
        unknown = sum(token not in theirs for token in ours)
        yield (
            f"{name}: {unknown} of the base's {len(ours)} tokens are unknown to it; its rows are "
            "matched by token string."
        )


def _differences(
    base: Checkpoint, source: Checkpoint, keys: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Keys that both configs have, with different values."""
    ours, theirs = _facts(base.config), _facts(source.config)
    for key in keys:
        mine, other = ours.get(key), theirs.get(key)
        if mine is not None and other is not None and mine != other:
            yield key, mine, other


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's config, rotary settings of old and new style under the same keys."""
    facts = language_config(config)
    for key in ("rope_scaling", "rope_parameters"):
        rope = facts.get(key)
        if isinstance(rope, Mapping):
            facts |= {k: rope[k] for k in ("rope_theta", "rope_type") if k in rope}
    if "rope_theta" in facts:
        facts.setdefault("rope_type", "default")
    return facts
