"""The block and the role of every tensor, from its name, for any architecture.

No model family is known here: the stack of blocks is the numbered path that has as many members as
the config says, and a role follows from the words in the name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.recipes.places import Place, numbered

DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers")
_LANGUAGE_KEYS = ("text_config", "llm_config", "language_config")

# Parts of a composite model that see or hear; their blocks are not the language model's.
_TOWER = re.compile(r"vision|visual|audio|speech|image|video|qformer", re.IGNORECASE)
# Tried in this order on the parts of a name; the first that matches decides.
_BLOCK_WORDS = (
    ("attention", re.compile(r"attn|attention", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|moe|expert|dense|intermediate|^fc\d|^output$", re.I)),
)
_NORM = re.compile(r"norm|^ln", re.IGNORECASE)
_PLAIN_NORM = re.compile(r"layer_?norm", re.IGNORECASE)
_OUTER_WORDS = (
    ("head", re.compile(r"^lm_head$|^embed_out$|^output$|^score$|^cls$")),
    ("embedding", re.compile(r"embed|^wte$|^wpe$|^shared$", re.IGNORECASE)),
)
# Embeddings whose rows are not tokens.
_POSITIONS = re.compile(r"wpe|position|token_type", re.IGNORECASE)


def language_parts(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sub-configs that describe the language model of a composite one."""
    return [part for key in _LANGUAGE_KEYS if isinstance(part := config.get(key), dict)]


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the keys of its language part, if it has one, on top."""
    merged = dict(config)
    for part in language_parts(config):
        merged |= {key: value for key, value in part.items() if key != "model_type"}
    return merged


def depth(config: Mapping[str, Any]) -> int | None:
    """The number of blocks that a config names, of the language part where it has several."""
    merged = language_config(config)
    return next((merged[key] for key in DEPTH_KEYS if isinstance(merged.get(key), int)), None)


def places(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Place]:
    """The place of every tensor.

    Args:
        names: all tensor names of one checkpoint.
        config: its config.json.
    """
    split = {name: numbered(name) for name in names}
    members: dict[str, set[int]] = defaultdict(set)
    for block in filter(None, split.values()):
        if not _TOWER.search(block.stack):
            members[block.stack].add(block.number)
    longest = max((len(indices) for indices in members.values()), default=0)
    layers = depth(config) or longest
    exact = {s for s, found in members.items() if len(found) == layers == max(found) + 1}
    # Otherwise the nearest: a file may lack blocks, or have more for multi-token prediction.
    stacks = exact or {s for s, found in members.items() if len(found) == longest}
    return {
        name: Place(block.number, _block_role(block.within))
        if block is not None and block.stack in stacks and block.number < layers
        else Place(None, _outer_role(name))
        for name, block in split.items()
    }


def is_position(name: str) -> bool:
    """Whether the rows of an embedding are positions or segments rather than tokens."""
    return _POSITIONS.search(name) is not None


def is_tower(name: str) -> bool:
    """Whether a tensor is of a part of a composite model that sees or hears."""
    return _TOWER.search(name) is not None


def within_block(name: str) -> str:
    """``mlp.up.weight`` of ``model.layers.3.mlp.up.weight``; empty for a name without a number."""
    found = numbered(name)
    return "" if found is None else found.within


def stack(name: str) -> str | None:
    """``model.layers`` of ``model.layers.3.mlp.up.weight``; None of a name without a number."""
    found = numbered(name)
    return None if found is None else found.stack


def _block_role(rest: str) -> str:
    """The role inside a block; a norm of queries or keys (``q_norm``) belongs to attention."""
    parts = rest.split(".")
    if any(_PLAIN_NORM.fullmatch(part) for part in parts):
        return "norm"  # BERT's attention.output.LayerNorm is on the residual stream
    for position, part in enumerate(parts):
        if _NORM.search(part):
            if position >= len(parts) - 2:
                return "norm"  # before attention: post_attention_layernorm is a norm
            continue  # DBRX keeps attention inside norm_attn_norm
        for role, pattern in _BLOCK_WORDS:
            if pattern.search(part):
                return role
    return "other"


def _outer_role(name: str) -> str:
    """The role outside the blocks; a composite model's towers are ``other`` throughout."""
    parts = name.split(".")
    if _TOWER.search(name) or numbered(name):
        return "other"
    (head, head_words), (embedding, embedding_words) = _OUTER_WORDS
    if any(head_words.search(part) for part in parts):
        return head
    if any(_NORM.search(part) for part in parts[-2:]):
        return "norm"  # before embeddings: BLOOM's word_embeddings_layernorm is a norm
    return embedding if any(embedding_words.search(part) for part in parts) else "other"
