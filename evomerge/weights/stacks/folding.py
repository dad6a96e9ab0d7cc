"""Scales of the residual stream, folded into ordinary weights.

With c_t the product of all scales up to block t, the folded model's stream is that of the scaled
one divided by c_t: what a block writes is divided by c_t, and what it reads must not depend on c_t.
A norm in front of a block cancels a positive factor, up to its epsilon, and changes sign with a
negative one. A matrix that reads the stream without a norm is multiplied by c_t.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple

from evomerge.errors import PlanError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes.places import precedes_blocks
from evomerge.weights.architecture.names import language_parts, within_block
from evomerge.weights.slots import Slot

_LEAF = re.compile(r"\.(weight|bias)$")


class Fold(NamedTuple):
    """What is done to a merged tensor: times ``factor``, plus ``offset``."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The modules of a block, as patterns of their names within it; each must be there.

    Attributes:
        writes: their output is added to the stream; weights and biases are divided.
        before: norms of the stream; gains change sign where the product is negative.
        after: norms of what is added to the stream; gains are divided.
        reads: read the stream without a norm; weights are multiplied.
        inside: neither read nor write the stream, and need not be there.
        final: the norm after the last block, by the end of its name.
        unit: gains are stored as their difference from one.
    """

    writes: tuple[str, ...]
    before: tuple[str, ...]
    inside: tuple[str, ...]
    after: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    final: str = "norm"
    unit: bool = False


_ATTENTION = r"self_attn\.([qkv]_proj|[qk]_norm|rotary_emb\.inv_freq)"
_LLAMA = Family(
    writes=(r"self_attn\.o_proj", r"mlp\.down_proj"),
    before=("input_layernorm", "post_attention_layernorm"),
    inside=(_ATTENTION, r"mlp\.(gate|up)_proj"),
)
_EXPERTS = replace(
    _LLAMA,
    writes=(r"self_attn\.o_proj", r"mlp\.((experts\.(\d+\.)?|shared_expert\.)?down_proj)"),
    inside=(
        *(_ATTENTION, r"mlp\.(gate|up)_proj", r"mlp\.(gate|shared_expert_gate)"),
        r"mlp\.(experts|shared_expert)\.(\d+\.)?(gate|up|gate_up)_proj",
    ),
)
_MIXTRAL = replace(
    _LLAMA,
    writes=(r"self_attn\.o_proj", r"(block_sparse_moe|mlp)\.experts\.(\d+\.w2|down_proj)"),
    inside=(
        *(_ATTENTION, r"(block_sparse_moe|mlp)\.gate"),
        r"(block_sparse_moe|mlp)\.experts\.(\d+\.w[13]|gate_up_proj)",
    ),
)
_GEMMA2 = Family(
    writes=(),
    before=("input_layernorm", "pre_feedforward_layernorm"),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
    inside=(_ATTENTION, r"self_attn\.o_proj", r"mlp\.(gate|up|down)_proj"),
    unit=True,
)
_OLMO2 = Family(
    writes=(),
    before=(),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
    # norms of queries and keys would cancel the factor, the MLP's gate does not
    reads=(
        *(r"self_attn\.q_proj", r"self_attn\.k_proj", r"self_attn\.v_proj"),
        *(r"mlp\.gate_proj", r"mlp\.up_proj"),
    ),
    inside=(r"self_attn\.([qk]_norm|o_proj|rotary_emb\.inv_freq)", r"mlp\.down_proj"),
)
_GPT_NEOX = Family(
    writes=(r"attention\.dense", r"mlp\.dense_4h_to_h"),
    before=("input_layernorm", "post_attention_layernorm"),
    inside=(
        *(r"attention\.query_key_value", r"mlp\.dense_h_to_4h"),
        r"attention(\.masked_bias|\.rotary_emb\.inv_freq)?",
    ),
    final="final_layer_norm",
)
_GPT2 = Family(
    writes=(r"attn\.c_proj", r"mlp\.c_proj"),
    before=("ln_1", "ln_2"),
    inside=(r"attn(\.c_attn|\.masked_bias)?", r"mlp\.c_fc"),
    final="ln_f",
)
_PHI = Family(
    writes=(r"self_attn\.dense", r"mlp\.fc2"),
    before=("input_layernorm",),
    inside=(_ATTENTION, r"self_attn\.[qk]_layernorm", r"mlp\.fc1"),
    final="final_layernorm",
)

# By the config's model_type.
FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "ministral", "qwen2", "qwen3", "seed_oss"), _LLAMA),
    **dict.fromkeys(("granite", "smollm3"), _LLAMA),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe"), _EXPERTS),
    "mixtral": _MIXTRAL,
    "gemma": replace(_LLAMA, unit=True),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA2),
    **dict.fromkeys(("olmo2", "olmo3"), _OLMO2),
    "phi3": replace(_LLAMA, inside=(r"self_attn\.qkv_proj", r"mlp\.gate_up_proj")),
    "phi": _PHI,
    "gpt_neox": _GPT_NEOX,
    "gpt2": _GPT2,
    "starcoder2": replace(
        _LLAMA,
        writes=(r"self_attn\.o_proj", r"mlp\.c_proj"),
        inside=(_ATTENTION, r"mlp\.c_fc"),
    ),
    "cohere": replace(_LLAMA, before=("input_layernorm",)),
}


def folds(
    scales: Sequence[float], config: Mapping[str, Any], slots: Sequence[Slot]
) -> dict[str, Fold]:
    """The fold of each tensor that scales change, by its name.

    Args:
        scales: (L,) factors of the stream on its way into each block; () for none.
        config: of the model whose blocks are scaled.
        slots: every tensor of the merged model.

    Raises:
        PlanError: a family whose blocks do not fold exactly, another number of blocks, and
            tensors that the family is not known to have.
    """
    if not scales:
        return {}
    family = _family(config)
    products = list(accumulate(scales, mul))
    folded: dict[str, Fold] = {}
    seen = _Seen(family, len(scales))
    for slot in slots:
        layer = slot.place.layer
        if layer is not None:
            if layer < len(products):
                kind = seen.kind(slot.name, layer)
                folded[slot.name] = _fold(kind, slot.name, products[layer], unit=family.unit)
        elif slot.place.role == "norm" and not precedes_blocks(slot.name, slot.place):
            module = _LEAF.sub("", slot.name)
            if module.rpartition(".")[2] == family.final:
                seen.final.add(module)
                folded[slot.name] = _fold("before", slot.name, products[-1], unit=family.unit)
    if problems := list(seen.problems()):
        raise PlanError(problems)
    return {name: fold for name, fold in folded.items() if fold != Fold(1.0)}


def _family(config: Mapping[str, Any]) -> Family:
    """The family of a config, or of the language part of a composite one."""
    kinds = [config.get("model_type"), *(p.get("model_type") for p in language_parts(config))]
    kind = next((kind for kind in kinds if kind in FAMILIES), None)
    if kind is None:
        named = str(kinds[-1])
        raise PlanError(
            f"scales: {named} is none of the families whose blocks are known to fold exactly."
            f"{did_you_mean(named, sorted(FAMILIES))} Leave scales out."
        )
    return FAMILIES[kind]


def _fold(kind: str, name: str, product: float, *, unit: bool) -> Fold:
    """The fold of one tensor in a block whose stream is divided by ``product``."""
    bias = name.endswith(".bias")
    if kind == "writes" or (kind == "after" and not unit):
        return Fold(1 / product)
    if kind == "after":  # 1 + w becomes (1 + w) / c
        return Fold(1 / product, 1 / product - 1)
    if kind == "reads" and not bias:
        return Fold(product)
    if kind == "before" and product < 0 and not bias:  # a LayerNorm's bias keeps its sign
        return Fold(-1.0, -2.0) if unit else Fold(-1.0)
    return Fold(1.0)


@dataclass(slots=True)
class _Seen:
    """The parts of a family that the tensors seen so far belong to."""

    family: Family
    layers: int
    final: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    parts: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("writes", "before", "after", "reads"):
            for pattern in getattr(self.family, kind):
                self.parts[kind, pattern] = set()

    def kind(self, name: str, layer: int) -> str:
        """How a tensor of a block relates to the stream: a field of `Family`."""
        module = _LEAF.sub("", within_block(name))
        for (kind, pattern), layers in self.parts.items():
            if re.fullmatch(pattern, module):
                layers.add(layer)
                return kind
        if not any(re.fullmatch(pattern, module) for pattern in self.family.inside):
            self.unknown.append(name)
        return "inside"

    def problems(self) -> Iterator[str]:
        for name in self.unknown:
            yield (
                f"scales: {name} is none of the tensors known of this family, so that nobody can "
                "say whether it sees the residual stream. Leave scales out."
            )
        for (_, pattern), layers in self.parts.items():
            if len(layers) < self.layers:
                missing = min(set(range(self.layers)) - layers)
                shown = pattern.replace("\\", "")
                yield f"scales: block {missing} has no tensor of {shown}. Leave scales out."
        if len(self.final) != 1:
            yield (
                f"scales: expected one final norm called {self.family.final}, got "
                f"{len(self.final)}. Leave scales out."
            )
