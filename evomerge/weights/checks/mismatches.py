"""Why models cannot be merged, and notes on what merging them changes silently."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evomerge.errors import shown
from evomerge.recipes import BASE
from evomerge.weights.architecture.names import language_config, language_parts
from evomerge.weights.architecture.token_tables import with_rows
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.files.headers import FLOATS
from evomerge.weights.slots import Slot
from evomerge.weights.tokens.token_names import difference_note, table_height

if TYPE_CHECKING:
    from evomerge.weights.tokens.vocabulary import Vocabulary

# Keys that change what the same weights compute, though every shape agrees.
_SAME_CONFIG = ("model_type", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim")
# Keys that say which tensors a block has: the one config of a stack says it of all its blocks.
_SAME_BLOCKS = ("attention_bias", "mlp_bias", "qkv_bias", "use_bias")
_NOTED_CONFIG = (
    *("rope_theta", "partial_rotary_factor", "sliding_window"),
    *("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps", "layernorm_epsilon"),
    *("hidden_act", "hidden_activation", "activation_function"),
    *("num_experts_per_tok", "norm_topk_prob", "routed_scaling_factor"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
    *("logit_scale", "logits_scaling", "attention_multiplier"),
    *("embedding_multiplier", "residual_multiplier"),
)
_UNCOMPARED = (".model", ".spm", ".tiktoken", "vocab.txt", "vocab.json")
_NAMED = 3  # tensors that a sentence names one by one
_DROP = "Drop this source."
_STACK = "Drop this source, or stack blocks: slices in a recipe, kind: dataflow in a search."


def config_problems(
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    *,
    sliced: bool,
    stacked: Collection[str] = (),
) -> list[str]:
    """Sentences about architectures that differ and weights that are quantized.

    Args:
        sliced: whether blocks are taken one by one, so that depths may differ.
        stacked: the sources whose blocks are stacked rather than merged.
    """
    problems = [
        f"{name}: its weights are quantized. Give the full-precision model."
        for name, checkpoint in {"base": base, **sources}.items()
        if "quantization_config" in checkpoint.config
        or any(info.dtype.startswith("F8") for info in checkpoint.tensors.values())
    ]
    for name, checkpoint in sources.items():
        same = (*_SAME_CONFIG, *(_SAME_BLOCKS if name in stacked else ()))
        problems += [
            f"{name}: {key} is {theirs!r}, the base has {mine!r}. {_DROP}"
            for key, mine, theirs in _differences(base, checkpoint, same)
            if key != "model_type" or _composite(base.config) == _composite(checkpoint.config)
        ]
        if not base.tensors.keys() & checkpoint.tensors.keys():
            problems.append(
                f"{name}: none of its tensors has a name of the base's: it has "
                f"{next(iter(checkpoint.tensors), 'none')}, the base "
                f"{next(iter(base.tensors), 'none')}. {_DROP}"
            )
        if checkpoint.layers != base.layers and not sliced:
            problems.append(
                f"{name}: has {checkpoint.layers} blocks, the base has {base.layers}, and blocks "
                f"are merged one by one. {_STACK}"
            )
    return problems


def _composite(config: Mapping[str, Any]) -> bool:
    """Whether a language model is only one part of the model; sources may lack the others."""
    towers = ("vision_config", "audio_config")
    return bool(language_parts(config)) or any(key in config for key in towers)


def _language(config: Mapping[str, Any]) -> Any:
    """The model type of the language part, or of the whole."""
    types = [part["model_type"] for part in language_parts(config) if "model_type" in part]
    return types[0] if types else config.get("model_type")


def shape_problems(
    slots: tuple[Slot, ...],
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    vocabulary: Vocabulary | None,
) -> list[str]:
    """One sentence for each source whose tensors have other shapes, or are not floating point."""
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
        wrong = [
            slot
            for slot in taking_part
            if not _fits(slot, checkpoint, slot.inputs[source], vocabulary)
        ]
        if wrong:
            problems.append(_shape_sentence(wrong, base, source, sources))
    return problems


def token_number_problems(
    slots: tuple[Slot, ...],
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    vocabulary: Vocabulary | None,
) -> Iterator[str]:
    """A sentence for each model whose integers would be those of other tokens."""
    if vocabulary is None:
        return
    for owner, model in {BASE: base, **sources}.items():
        own = (slot for slot in slots if not slot.floating and _owner(slot) == owner)
        names = (slot.inputs[owner] if slot.base is None else slot.base for slot in own)
        name = next((name for name in names if name in model.token_numbers), None)
        if name is not None and not vocabulary.is_own(model):
            yield (
                f"tokenizer: {name} of {owner} has integers for every token, which cannot be "
                "merged, and tokens have other rows in the merged model. Write tokenizer: "
                f"{owner}."
            )


def _fits(slot: Slot, model: Checkpoint, name: str, vocabulary: Vocabulary | None) -> bool:
    theirs = model.tensors[name].shape
    aligned = slot.token_axis is not None and bool(model.token_tables)
    if aligned and (vocabulary is None or vocabulary.fits(model)):
        return _fits_but_for_tokens(slot, model, name)
    return theirs == slot.shape


def _fits_but_for_tokens(slot: Slot, model: Checkpoint, name: str) -> bool:
    axis = model.token_tables.get(name)
    if axis is None or slot.token_axis not in (None, axis):
        return False
    return with_rows(model.tensors[name].shape, axis, 0) == with_rows(slot.shape, axis, 0)


def _owner(slot: Slot) -> str:
    return "base" if slot.base is not None else next(iter(slot.inputs))


def _shape_sentence(
    wrong: list[Slot],
    base: Checkpoint,
    source: str,
    sources: Mapping[str, Checkpoint],
) -> str:
    checkpoint = sources[source]

    def shape(slot: Slot) -> tuple[int, ...]:
        """The shape of a tensor in the model that owns it, before rows are aligned."""
        if slot.base is not None:
            return base.tensors[slot.base].shape
        owner, name = next(iter(slot.inputs.items()))
        return sources[owner].tensors[name].shape

    theirs = {slot.name: checkpoint.tensors[slot.inputs[source]].shape for slot in wrong}
    cure = "Drop one source."
    if all(_fits_but_for_tokens(slot, checkpoint, slot.inputs[source]) for slot in wrong):
        cure = "Save a tokenizer.json with each model to match its tokens, or drop one source."
    verb = "tensor differs" if len(wrong) == 1 else "tensors differ"
    more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    named = "; ".join(
        f"{slot.name} is {shape(slot)} in {_owner(slot)}, {theirs[slot.name]} in {source}"
        for slot in wrong[:_NAMED]
    )
    return f"{len(wrong)} {verb} in shape: {named}{more}. {cure}"


def notes(
    base: Checkpoint,
    sources: Mapping[str, Checkpoint],
    vocabulary: Vocabulary | None,
) -> Iterator[str]:
    """Sentences about what changes silently when these models are merged."""
    for name, checkpoint in sources.items():
        ours, others = _settings(base.config, checkpoint.config)
        for key in (key for key in ours if key in others and ours[key] != others[key]):
            yield (
                f"{name}: {key} is {shown(others[key])}, the base has {shown(ours[key])}. The "
                "merged model keeps the base's."
            )
        mine, theirs = _language(base.config), _language(checkpoint.config)
        if _composite(base.config) != _composite(checkpoint.config) and mine != theirs:
            yield f"{name}: its language model is {theirs!r}, the base's is {mine!r}."
        yield from _vocabulary_note(name, base, checkpoint, vocabulary)
    if len({checkpoint.tied for checkpoint in (base, *sources.values())}) == 2:
        yield "some models tie embedding and head, some do not: all are untied."
    models = {BASE: base, **sources}
    yield from (f"{name}: {note}" for name, one in models.items() if (note := one.note))


def _vocabulary_note(
    name: str, base: Checkpoint, checkpoint: Checkpoint, vocabulary: Vocabulary | None
) -> Iterator[str]:
    ours, theirs = base.vocabulary, checkpoint.vocabulary
    if theirs is None or ours is None:
        lacking = "the base" if ours is None else "it"
        if ours is not theirs:
            yield (
                f"{name}: {lacking} has no tokenizer.json, so that vocabularies cannot be "
                "compared; rows are taken to mean the same tokens."
            )
        elif (mine := _uncompared(base)) and (own := _uncompared(checkpoint)) and mine != own:
            yield (
                f"{name}: its tokenizer is another one than the base's, and neither has a "
                "tokenizer.json, so that vocabularies cannot be compared; rows are taken to mean "
                "the same tokens."
            )
    elif vocabulary is None or not vocabulary.by_token:
        if ours != theirs or table_height(base) != table_height(checkpoint):
            note = difference_note(name, base, checkpoint)
            yield from () if note is None else (note,)
    elif not vocabulary.is_own(checkpoint):
        whose = "base's" if vocabulary.tokens == ours else "merged"
        unknown = sum(token not in theirs for token in vocabulary.tokens)
        yield (
            f"{name}: {unknown} of the {whose} {len(vocabulary.tokens)} tokens are unknown to it; "
            "its rows are matched by token string."
        )


def _uncompared(model: Checkpoint) -> dict[str, str]:
    """Digests of a model's files that number tokens in a way that is not read here."""
    digests = model.files.digests if model.files else {}
    return {name: digest for name, digest in digests.items() if name.endswith(_UNCOMPARED)}


def _differences(
    base: Checkpoint, source: Checkpoint, keys: tuple[str, ...]
) -> Iterator[tuple[str, Any, Any]]:
    """Keys that both configs have with different values: key, the base's value, the source's."""
    ours, theirs = language_config(base.config), language_config(source.config)
    for key in keys:
        mine, other = ours.get(key), theirs.get(key)
        if mine is not None and other is not None and mine != other:
            yield key, mine, other


def _settings(*configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What configs say under the keys that are noted: as Transformers reads them, if it does.

    A config may leave out what its class has as a default, and has been written in other ways.
    """
    if all(config == configs[0] for config in configs):
        return [{} for _ in configs]  # without the seconds that Transformers takes to import
    from evomerge.weights.architecture.empty import read_config

    read = [read_config(config) for config in configs]
    return [
        _noted(language_config(own)) if own else {} for own in (configs if None in read else read)
    ]


def _noted(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is noted of a config, rotary settings of old and new style under the same keys."""
    found = {key: config[key] for key in _NOTED_CONFIG if key in config}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(rope := config.get(key), Mapping):
            found |= _rotary(rope)
    if "rope_theta" in found:
        found.setdefault("rope_type", "default")
    return found


def _rotary(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings; where each kind of block has its own, as ``full_attention.factor``."""
    found = {"rope_type": rope["type"]} if "type" in rope else {}  # its oldest name
    for key, value in rope.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": own for inner, own in _rotary(value).items()}
        elif key != "type":
            found[key] = value
    return found
