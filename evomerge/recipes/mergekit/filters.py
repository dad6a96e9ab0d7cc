"""Filters: parts of tensor names that select the tensors of a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.recipes import Scalar
from evomerge.recipes.places import Place, renumber

ValueByBlock = Scalar | list[Scalar]  # the same value in all blocks, or one for each

# Filters that select one role in the tensor names of Llama and its many relatives.
FILTERS = (
    *("self_attn", "attn", "mlp", "block_sparse_moe", "embed_tokens", "wte", "lm_head"),
    *("norm", "layernorm", "model.norm"),
)

# Role to a name that has all filters in it that select the role, and no others. The norm after the
# blocks is a role to filters, though not to recipes.
TYPICAL = {
    "attention": "self_attn",
    "mlp": "mlp.block_sparse_moe",
    "norm": "layernorm",
    "embedding": "embed_tokens.wte",
    "head": "lm_head",
    "final_norm": "model.norm",
}


class ValuesByName(NamedTuple):
    """What a parameter is for every tensor of a model.

    Attributes:
        blocks: tensor name, as in block 0, to its values.
        outer: names of the tensors outside the blocks to their values.
    """

    blocks: dict[str, ValueByBlock]
    outer: dict[str, Scalar]


def by_name(
    places: Mapping[str, Place],
    layers: int,
    value: Callable[[str, Place, int], Scalar | None],
) -> ValuesByName:
    """What a parameter is for every tensor.

    Args:
        layers: the number of blocks.
        value: takes a tensor's name, its place and the block; None where it takes no part.
    """
    blocks: dict[str, ValueByBlock] = {}
    outer: dict[str, Scalar] = {}
    for name, place in places.items():
        if place.layer is None:
            if (own := value(name, place, 0)) is not None:
                outer[name] = own
        elif (generic := renumber(name, 0)) not in blocks:
            row = [value(renumber(name, layer), place, layer) for layer in range(layers)]
            if any(one is not None for one in row):
                blocks[generic] = collapsed(row)
    return ValuesByName(blocks, outer)


def by_filter(values: ValuesByName) -> Any:
    """A list of filters and values, the last one for most tensors.

    Raises:
        ValueError: no part of a name selects the tensors of one value alone.
    """
    blocks, outer = values
    rest = commonest(list(blocks.values()) or list(outer.values()))
    everything = {**outer, **blocks}
    groups: dict[Hashable, list[str]] = {}
    for name, value in (*blocks.items(), *outer.items()):
        if value != (rest if name in blocks else first(rest)):
            groups.setdefault(_key(value), []).append(name)
    lines: list[dict[str, Any]] = []
    for chosen in groups.values():
        parts = cover(chosen, [name for name in everything if name not in chosen])
        if parts is None:
            raise ValueError(f"no part of a name selects {', '.join(chosen[:3])} alone")
        lines += [{"filter": part, "value": everything[chosen[0]]} for part in parts]
    return [*lines, {"value": rest}] if lines else rest


def first(value: ValueByBlock) -> Scalar:
    """The value for tensors outside the blocks."""
    return value[0] if isinstance(value, list) else value


def collapsed(row: Sequence[Scalar | None]) -> ValueByBlock:
    """One value where all are equal; a None takes its neighbour's, as it is never read."""
    last = next((value for value in row if value is not None), 0.0)
    filled = [last := last if value is None else value for value in row]
    return filled[0] if all(value == filled[0] for value in filled) else filled


def commonest(values: Collection[ValueByBlock]) -> ValueByBlock:
    """The most common value; of several, the first."""
    counts = Counter(map(_key, values))
    return next(value for value in values if _key(value) == counts.most_common(1)[0][0])


def pattern(name: str) -> str:
    """``model.layers.3.mlp.up.weight`` -> ``model.layers.#.mlp.up.weight``."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def cover(names: Iterable[str], others: Iterable[str]) -> list[str] | None:
    """A few substrings that together hit every name and none of the others, or None.

    Those of `FILTERS` come first, so that they can be read back.
    """
    left, others = {pattern(name) for name in names}, {pattern(name) for name in others}
    found = []
    for candidate in [*FILTERS, *_parts(sorted(left))]:
        hits = {name for name in left if candidate in name}
        if hits and not any(candidate in other for other in others):
            found.append(candidate)
            left -= hits
        if not left:
            return found
    return None


def _parts(names: Iterable[str]) -> list[str]:
    """Runs of whole parts of the names, the shortest first."""
    runs: dict[str, int] = {}
    for name in names:
        for piece in name.split("#"):
            parts = piece.strip(".").split(".")
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    runs[".".join(parts[start:end])] = end - start
    return sorted(filter(None, runs), key=lambda run: (runs[run], len(run), run))


def _key(value: ValueByBlock) -> Hashable:
    return tuple(value) if isinstance(value, list) else value
