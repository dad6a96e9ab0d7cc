"""mergekit's filters: parts of tensor names, and the roles that some of them select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# What a filter selects in the tensor names of Llama and its many relatives. ``final_norm`` is the
# one after the blocks: a role for mergekit's filters, though not for ours.
FILTERS: Mapping[str, frozenset[str]] = {
    "self_attn": frozenset({"attention"}),
    "attn": frozenset({"attention"}),
    "mlp": frozenset({"mlp"}),
    "block_sparse_moe": frozenset({"mlp"}),
    "embed_tokens": frozenset({"embedding"}),
    "wte": frozenset({"embedding"}),
    "lm_head": frozenset({"head"}),
    "norm": frozenset({"norm", "final_norm"}),
    "layernorm": frozenset({"norm"}),
    "model.norm": frozenset({"final_norm"}),
}


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
        for stretch in name.split("#"):
            parts = stretch.strip(".").split(".")
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    runs[".".join(parts[start:end])] = end - start
    return sorted(filter(None, runs), key=lambda run: (runs[run], len(run), run))
