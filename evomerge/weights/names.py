"""From tensor names to block index and role, for any architecture.

Nothing here knows a model family: the stack of blocks is the numbered path that has as many
members as the config says, and a role follows from the words in the name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_NUMBER = re.compile(r"\.(\d+)\.")
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")

# Tried in this order on the parts of a name; the first that matches decides.
_BLOCK_WORDS = (
    ("attention", re.compile(r"attn|attention", re.IGNORECASE)),
    ("mlp", re.compile(r"mlp|ffn|feed_forward|moe|expert|dense|intermediate|^fc\d|^output$", re.I)),
)
_NORM = re.compile(r"norm|^ln", re.IGNORECASE)
_OUTER_WORDS = (
    ("head", re.compile(r"lm_head|embed_out|^output$|^score$")),
    ("embedding", re.compile(r"embed|^wte$|^wpe$", re.IGNORECASE)),
    ("norm", _NORM),
)


class Place(NamedTuple):
    """Where a tensor sits: the index of its block, or None outside the blocks, and its role."""

    layer: int | None
    role: str


def depth(config: Mapping[str, Any]) -> int | None:
    """The number of blocks that a config names, looking into ``text_config`` too."""
    for part in (config, config.get("text_config") or {}):
        for key in _DEPTH_KEYS:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


def places(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Place]:
    """The place of every tensor.

    Args:
        names: all tensor names of one checkpoint.
        config: its config.json.
    """
    split = {name: _split(name) for name in names}
    members: dict[str, set[int]] = defaultdict(set)
    for stack, index, _ in split.values():
        if index is not None:
            members[stack].add(index)
    layers = depth(config)
    if layers is None:
        layers = max((len(indices) for indices in members.values()), default=0)
    stacks = {stack for stack, indices in members.items() if indices == set(range(layers))}
    return {
        name: Place(index, _block_role(rest))
        if index is not None and stack in stacks
        else Place(None, _outer_role(name))
        for name, (stack, index, rest) in split.items()
    }


def _split(name: str) -> tuple[str, int | None, str]:
    """``model.layers.3.mlp.up.weight`` -> (``model.layers``, 3, ``mlp.up.weight``).

    The first number counts: in ``layers.3.mlp.experts.0`` it is 3.
    """
    match = _NUMBER.search(name)
    if match is None:
        return name, None, ""
    return name[: match.start()], int(match[1]), name[match.end() :]


def _block_role(rest: str) -> str:
    """The role inside a block; a norm inside attention (``q_norm``) belongs to attention."""
    for part in rest.split("."):
        if _NORM.search(part):
            return "norm"  # before attention: post_attention_layernorm is a norm
        for role, pattern in _BLOCK_WORDS:
            if pattern.search(part):
                return role
    return "other"


def _outer_role(name: str) -> str:
    parts = name.split(".")
    for role, pattern in _OUTER_WORDS:
        if any(pattern.search(part) for part in parts):
            return role
    return "other"
